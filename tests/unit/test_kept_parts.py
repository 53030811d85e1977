"""An index of two parts in a folder holds every change at once, at the cost of the change."""

import itertools
import os
import random
import shutil

import numpy as np
import pytest

from cde_retriever.adapters.kept_parts import KeptParts, read_index
from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ContextFormatError, ContextMismatchError
from cde_retriever.search.index_file import index_files, open_index, save_index
from cde_retriever.search.parts_index import PartsIndex
from cde_retriever.words.sparse import Sparse
from tests.killing import killed, kills


def text(number):
    """Return parts of one document that tell its number."""
    return Parts(np.full((1, 16), number, np.float32), Sparse.of_rows([{7: 1.0, 100 + number: 2.0}]).csr())


def opened(folder):
    return KeptParts(read_index(folder, "one"), folder)


def held(folder):
    """Return what an index in a folder holds, by searching it: each document's number by its id."""
    index = read_index(folder, "one")
    query = Parts(np.full((1, 16), 1 / 16, np.float32), Sparse.of_rows([{7: 0.0}]).csr())
    return {hit.id: round(hit.score) for hit in index.search(query, 10_000, mode="dense")} if len(index) else {}


def test_every_change_is_there_for_who_opens_the_folder(tmp_path):
    rng, kept, expected = random.Random(0), opened(tmp_path), {}
    for step in range(300):
        name = str(rng.randrange(40))
        if rng.random() < 0.7:
            kept.add([name], text(step))
            expected[name] = step
        else:
            kept.delete([name, "unknown"])
            expected.pop(name, None)
        if step % 7 == 0:
            assert held(tmp_path) == expected
        if rng.random() < 0.1:
            kept = opened(tmp_path)
    assert held(tmp_path) == expected
    for file in index_files(tmp_path):  # 40 documents at most, of 300 changes
        assert file.stat().st_size < 20_000


def test_a_change_is_appended_and_the_index_stays_until_the_log_outgrows_it(tmp_path):
    kept = opened(tmp_path)
    many = Parts(np.zeros((500, 16), np.float32), Sparse.of_rows([{row: 1.0} for row in range(500)]).csr())
    kept.add([f"first {row}" for row in range(500)], many)
    file, log = index_files(tmp_path)
    before, size = file.stat().st_ino, file.stat().st_size
    kept.add(["a"], text(1))
    kept.add(["b"], text(2))
    one = log.stat().st_size
    kept.delete(["a"])
    assert file.stat().st_ino == before
    assert one < log.stat().st_size < one + 100 < size / 20
    for number in itertools.count(3):
        kept.add([str(number)], text(number))
        if not log.exists():
            break
        assert log.stat().st_size <= size
    assert number > 20
    assert size < file.stat().st_size < 2 * size
    assert held(tmp_path).keys() == {*(f"first {row}" for row in range(500)), "b", *map(str, range(3, number + 1))}


def test_a_log_that_outlived_its_index_changes_nothing(tmp_path):
    kept = opened(tmp_path / "one")
    kept.add([str(row) for row in range(9)], Parts(np.zeros((9, 16), np.float32), Sparse.of_rows([{7: 1.0}] * 9).csr()))
    kept.delete(["0"])
    _, log = index_files(tmp_path / "one")
    stale = shutil.copy(log, tmp_path / "stale")
    save_index(kept.index, tmp_path / "one")
    assert not log.exists()
    shutil.copy(stale, log)  # as if the process was killed before it removed it
    kept = opened(tmp_path / "one")
    kept.add(["0"], text(5))
    assert held(tmp_path / "one") == {**dict.fromkeys(map(str, range(1, 9)), 0), "0": 5}


def test_damage_and_another_context_are_refused(tmp_path):
    kept = opened(tmp_path)
    kept.add(["a", "b"], Parts(np.zeros((2, 16), np.float32), Sparse.of_rows([{7: 1.0}] * 2).csr()))
    kept.delete(["a"])
    _, log = index_files(tmp_path)
    content = log.read_bytes()
    log.write_bytes(content[:-1] + b"\n")
    with pytest.raises(ContextFormatError, match=r"parts_index\.changes is damaged .*another hash"):
        open_index(tmp_path, "one")
    log.write_bytes(content)
    with pytest.raises(ContextMismatchError, match="made under context one, not two"):
        open_index(tmp_path, "two")
    other = opened(tmp_path)
    other.add(["c"], text(1))
    with pytest.raises(ContextMismatchError, match="was written by another process"):
        kept.delete(["b"])
    assert held(tmp_path) == {"b": 0, "c": 1}


def test_a_failed_write_lets_the_next_one_through(tmp_path, monkeypatch):
    kept = opened(tmp_path)
    kept.add(["a", "b"], Parts(np.zeros((2, 16), np.float32), Sparse.of_rows([{7: 1.0}] * 2).csr()))

    def fail(_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            kept.delete(["a"])
    assert held(tmp_path) == {"a": 0, "b": 0}
    kept.delete(["b"])
    assert held(tmp_path) == {"a": 0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_killed_writer_leaves_all_changes_but_the_last(tmp_path):
    moments, last = random.Random(2), -1

    def write(begin, first):
        kept = opened(tmp_path)
        begin()
        kept.delete([str(first - 21)])  # what the one before did not come to
        for number in itertools.count(first):
            kept.add([str(number)], text(number))
            kept.delete([str(number - 20)])

    for kill in range(kills(10)):
        assert killed(lambda begin, first=last + 1: write(begin, first), moments.uniform(0, 0.1)), kill
        found = held(tmp_path)
        if not found:
            continue
        oldest, newest = min(found.values()), max(found.values())
        assert found == {str(number): number for number in range(oldest, newest + 1)}, kill
        assert oldest in (max(0, newest - 19), max(0, newest - 20)), kill
        assert newest >= last, kill
        last = newest
    assert last >= 0
    kept = opened(tmp_path)
    kept.save(tmp_path)
    assert list(tmp_path.iterdir()) == [index_files(tmp_path)[0]]


def test_documents_of_another_width_do_not_join(tmp_path):
    kept = opened(tmp_path)
    kept.add(["a"], text(1))
    with pytest.raises(ValueError, match="a vector has 8 dense numbers, those of the index have 16"):
        kept.add(["b"], Parts(np.zeros((1, 8), np.float32), Sparse.of_rows([{7: 1.0}]).csr()))
    empty = PartsIndex("one")
    kept.index.join(empty)
    assert kept.index.ids == ["a"]
