"""Files and folders are replaced as a whole, whenever a writer is killed, and killed writers leave no litter."""

import errno
import itertools
import os
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from cde_retriever.files import replacing as module
from cde_retriever.files.full_disk import DiskError, disk_error, need_space
from cde_retriever.files.leftovers import hidden_beside, lock, unlock
from cde_retriever.files.replacing import copy_folder, recover_folder, replacing, replacing_folder, write_atomically
from tests.killing import Begin, killed, kills


def write_numbers(kind: str, target: Path, begin: Begin) -> None:
    """Write one number after the other over a file or a folder."""
    if kind == "moved aside":
        module._exchange = lambda *_: False  # in a child alone
    for number in itertools.count():
        content = str(number).encode() * 5000
        if kind == "file":
            write_atomically(target, content)
        else:
            with replacing_folder(target, start_empty=True) as new:
                for name in "abc":
                    (new / name).write_bytes(content)
        if number == 0:
            begin()


def number_in(target: Path) -> int:
    """Return the number that all files of a target hold, whole."""
    files = sorted(target.iterdir()) if target.is_dir() else [target]
    contents = {file.read_bytes() for file in files}
    assert len(contents) == 1, "files of two writes"
    content = contents.pop().decode()
    number = content[: len(content) // 5000]
    assert number
    assert content == number * 5000
    if target.is_dir():
        assert [file.name for file in files] == ["a", "b", "c"]
    return int(number)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("kind", ["file", "folder", "moved aside"])
def test_a_writer_killed_at_any_moment_leaves_old_or_new_and_the_next_one_no_litter(kind, tmp_path):
    target, moments = tmp_path / "target", random.Random(0)
    for _ in range(kills(8)):
        assert killed(partial(write_numbers, kind, target), moments.uniform(0, 0.03))
        if kind == "moved aside":
            recover_folder(target)
        assert number_in(target) >= 0
    if kind == "file":
        write_atomically(target, b"7" * 5000)
    else:
        with replacing_folder(target) as new:
            for name in "abc":
                (new / name).write_bytes(b"7" * 5000)
    assert number_in(target) == 7
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_folder_keeps_what_is_not_written_anew_and_its_mode(exchanged, tmp_path, monkeypatch):
    if not exchanged:
        monkeypatch.setattr(module, "_exchange", lambda *_: False)
    folder = tmp_path / "deep" / "folder"
    with replacing_folder(folder) as new:
        (new / "card").write_text("of the first")
        (new / "model").write_text("first")
    folder.chmod(0o750)
    with replacing_folder(folder) as new:
        (new / "model").write_text("second")
        assert (folder / "model").read_text() == "first"
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"card": "of the first", "model": "second"}
    with replacing_folder(folder, start_empty=True) as new:
        (new / "model").write_text("third")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"model": "third"}
    assert folder.stat().st_mode & 0o777 == 0o750
    assert list(folder.parent.iterdir()) == [folder]


def test_an_exchange_leaves_no_moment_without_a_folder(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    moved = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: moved.append(path) or rename(path, to))
    with replacing_folder(tmp_path / "folder") as new:
        (new / "file").write_text("new")
    assert (tmp_path / "folder" / "file").read_text() == "new"
    assert moved == []


def test_a_failed_write_leaves_the_old_folder(tmp_path):
    with replacing_folder(tmp_path / "folder") as new:
        (new / "file").write_text("old")

    def fail():
        with replacing_folder(tmp_path / "folder") as new:
            (new / "file").write_text("half of the n")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert (tmp_path / "folder" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "latest").symlink_to("v1")
    with replacing_folder(tmp_path / "latest") as new:
        (new / "file").write_text("new")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "v1" / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "v1"]


def test_what_a_live_writer_holds_stays(tmp_path):
    file = tmp_path / "file"
    with replacing(file) as stream:
        stream.write(b"first, slowly")
        write_atomically(file, b"second, in between")
        assert len(list(tmp_path.iterdir())) == 2
    assert file.read_bytes() == b"first, slowly"
    assert list(tmp_path.iterdir()) == [file]


def test_another_s_files_are_no_leftovers(tmp_path):
    others = [tmp_path / name for name in (".file.backup", ".file.0123", f".file2.{'0' * 32}", f".file.{'0' * 32}.old")]
    for other in others:
        other.touch()
    (tmp_path / f".file.{'a' * 32}").touch()
    write_atomically(tmp_path / "file", b"new")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "file"])


def test_a_folder_that_was_moved_aside_is_found_again_but_not_under_its_writer(tmp_path):
    aside, folder = tmp_path / f".folder.{'0' * 32}.old", tmp_path / "folder"
    aside.mkdir()
    (aside / "file").write_text("old")
    held = lock(aside)
    recover_folder(folder)
    assert not folder.exists()
    unlock(held)
    recover_folder(folder)
    assert (folder / "file").read_text() == "old"
    recover_folder(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_new_file_that_another_takes_for_a_leftover_is_made_again(tmp_path):
    made = []

    def make(path):
        made.append(path)
        path.touch()
        if len(made) == 1:
            path.unlink()

    with hidden_beside(tmp_path / "file", make) as path:
        assert path == made[1]
        assert path.exists()
    assert not path.exists()


def test_a_written_file_is_readable_as_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"content")
        with replacing_folder(tmp_path / "folder") as new:
            (new / "file").write_bytes(b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_stream_that_fails_leaves_the_old_file(tmp_path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def write_half() -> None:
        with replacing(file) as stream:
            stream.write(b"half of the n")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write_half()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("fault", "advice"), [(errno.ENOSPC, "free space, then do the same again"), (errno.EROFS, "choose another place")]
)
def test_a_disk_that_takes_no_more_is_told_with_what_was_to_be_written(fault, advice, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        tried.append(_)
        raise OSError(fault, os.strerror(fault), "a hidden name")

    def write_folder() -> None:
        with replacing_folder(tmp_path / "folder") as new:
            write_atomically(new / "one", b"new")

    tried: list[object] = []
    write_folder()
    write_atomically(tmp_path / "folder" / "two", b"old")
    monkeypatch.setattr("shutil.copy2", refuse)
    with pytest.raises(OSError, match=f"and what was there is as it was; {advice}") as told:
        write_folder()
    assert (told.value.errno, told.value.filename) == (fault, str((tmp_path / "folder").resolve()))
    assert len(tried) == 1  # the first file that fails ends the copy
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskError, match=f"it was; {advice}") as told:
        write_folder()
    assert told.value.filename == str((tmp_path / "folder").resolve()), "not a file of the hidden folder"
    with pytest.raises(DiskError, match=advice) as told:
        write_atomically(tmp_path / "folder" / "one", b"newer")
    assert told.value.filename == str(tmp_path / "folder" / "one")
    assert disk_error(told.value) is told.value  # whoever hears of it later says nothing else
    assert (tmp_path / "folder" / "one").read_bytes() == b"new"


def test_room_is_asked_for_before_long_work_where_a_disk_tells_it(tmp_path, monkeypatch) -> None:
    def disk(total: int, free: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=total, free=free))

    disk(10**9, 2_000_000)
    need_space(tmp_path, 2_000_000)
    with pytest.raises(DiskError, match=r": 3\.5 MB will be written, and 2\.0 MB are free; free space, then") as told:
        need_space(tmp_path, 3_500_000)
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path))
    disk(0, 0)  # as some drives of a network say
    need_space(tmp_path, 3_500_000)


def test_another_fault_of_a_copy_is_raised_as_it_is(tmp_path, monkeypatch) -> None:
    def refuse(source: str, _: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", source)

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("theirs")
    monkeypatch.setattr("shutil.copy2", refuse)
    with pytest.raises(PermissionError, match="folder/file"):
        copy_folder(tmp_path / "folder", tmp_path / "other")
