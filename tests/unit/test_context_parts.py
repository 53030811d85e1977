"""What a context keeps beside its vectors, how it is put together, and where its file lies."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from cde_retriever.context import sampling
from cde_retriever.context.context import (
    Context,
    ModelIdentity,
    context_file,
    hash_text,
)
from cde_retriever.context.making import listed_context, make_context
from cde_retriever.context.sampling import Choice, Sample, sample_documents
from cde_retriever.errors import ConfigError, ContextError, ContextFormatError, ContextMismatchError
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.sparse import Sparse
from cde_retriever.words.statistics import WordStatistics

MODEL = ModelIdentity(name="m", revision=None, sha256="a" * 64, prompts={"query": "", "document": ""}, max_length=64)
TEXTS = ("one", "two", "three")
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)
FREQUENCIES = np.array([[0, 1], [7, 3]], np.int64)


def words_of(rows: int = 3) -> CorpusWords:
    counts = Sparse.of_rows([{5: 2.0, 2**32 - 1: 1.0}, {}, {5: 1.0}][:rows])
    grams = WordStatistics(np.array([3, 9]), np.array([1, 2]), rows, 4.5)
    return CorpusWords("english", counts, grams)


def full_context(**changes) -> Context:
    sample = Sample(TEXTS, 30, Choice(4))
    parts = {"needs": 8, "store_texts": True, "frequencies": FREQUENCIES, "words": words_of()} | changes
    return make_context(sample, VECTORS, MODEL, **parts)


def test_a_context_is_put_together_of_everything_it_is_given() -> None:
    words = words_of()
    one = full_context(words=words)
    assert one.vectors.tolist() == VECTORS.tolist()
    assert (one.model, one.words, one.texts) == (MODEL, words, TEXTS)
    assert one.text_hashes == tuple(hashlib.sha256(text.encode()).hexdigest() for text in TEXTS)
    assert (one.seed, one.documents_seen, one.oversampled_to) == (4, 30, 8)
    assert one.frequencies.tolist() == [[0, 1], [7, 3]]
    assert repr(one) == f"Context({one.fingerprint[:12]}, 3 of 30 documents, m)"


@pytest.mark.parametrize(("needs", "oversampled"), [(None, None), (2, None), (3, None), (4, 4)])
def test_documents_are_repeated_only_for_a_model_that_needs_more(needs, oversampled) -> None:
    assert full_context(needs=needs).oversampled_to == oversampled
    assert listed_context(VECTORS, MODEL, needs).oversampled_to == oversampled


def test_a_model_that_reads_neither_vectors_nor_counts_has_arrays_without_numbers() -> None:
    one = make_context(Sample(TEXTS, 3, Choice(0)), None, MODEL, store_texts=False, needs=None)
    assert (one.vectors.shape, one.frequencies.shape, one.words) == ((3, 0), (0, 2), None)


def test_a_context_of_vectors_is_identified_by_their_bytes() -> None:
    one = listed_context(VECTORS, MODEL, None)
    assert one.vectors.tolist() == VECTORS.tolist()
    assert one.text_hashes == tuple(hashlib.sha256(row.tobytes()).hexdigest() for row in VECTORS)
    assert (one.model, one.texts, one.seed, one.documents_seen) == (MODEL, None, None, 3)


def test_arrays_get_the_types_that_files_have() -> None:
    one = Context(VECTORS.astype(np.float64), MODEL, ("a", "b", "c"), None, frequencies=FREQUENCIES.astype(np.int32))
    assert (one.vectors.dtype, one.frequencies.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequencies": np.zeros(2, np.int64)}, r"pairs of token id and count, received \(2,\)"),
        ({"frequencies": np.ones((2, 3), np.int64)}, r"pairs of token id and count, received \(2, 3\)"),
        ({"frequencies": np.array([[4, -1]])}, r"pairs of token id and count, received \(1, 2\)"),
        ({"frequencies": np.array([[0, 1], [5, 4]])}, "occur in 4 documents, but the context has 3"),
        ({"words": words_of(2)}, "of 3 documents has words of 2"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes, message) -> None:
    with pytest.raises(ContextError, match=message):
        full_context(**changes)


@pytest.mark.parametrize("with_words", [True, False])
def test_a_file_holds_every_part(with_words) -> None:
    one = full_context() if with_words else full_context(words=None)
    back = Context.from_bytes(one.to_bytes())
    assert back.fingerprint == one.fingerprint
    assert back.frequencies.tolist() == [[0, 1], [7, 3]]
    assert back.vectors.tolist() == VECTORS.tolist()
    if not with_words:
        assert back.words is None
        return
    assert back.words.language == "english"
    assert [array.tolist() for array in back.words.counts] == [[0, 2, 2, 3], [5, 2**32 - 1, 5], [2, 1, 1]]
    assert (back.words.grams.words.tolist(), back.words.grams.documents_with.tolist()) == ([3, 9], [1, 2])
    assert (back.words.grams.documents, back.words.grams.mean_length) == (3, 4.5)


@pytest.mark.parametrize(("seed", "rows", "method"), [(4, 3, "sample"), (None, 3, "vectors"), (None, 0, "null")])
def test_a_file_says_how_its_context_came_about(seed, rows, method) -> None:
    one = Context(VECTORS[:rows], MODEL, tuple(map(hash_text, TEXTS[:rows])), None, Choice(seed))
    assert f'\\"method\\": \\"{method}\\"'.encode() in one.to_bytes()


def damaged(data: bytes, part: bytes) -> bytes:
    """Return a file in which one byte of an array is another."""
    place = data.rindex(part)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_counts_are_covered_by_the_checksum(tmp_path) -> None:
    """Words' and tokens' counts decide vectors as much as the first stage's numbers do."""
    one = full_context()
    file = tmp_path / "c.safetensors"
    for array in (one.vectors, one.frequencies, one.words.arrays()["words_values"]):
        file.write_bytes(damaged(one.to_bytes(), array.tobytes()))
        with pytest.raises(ContextFormatError, match=r"c\.safetensors does not match its own fingerprint"):
            Context.load(file)


def test_messages_name_the_file_and_the_fault(tmp_path) -> None:
    file = tmp_path / "c.safetensors"
    file.write_bytes(b"no such thing")
    with pytest.raises(ContextFormatError, match=r"c\.safetensors is damaged .*no whole safetensors file"):
        Context.load(file)
    data = full_context().to_bytes()
    file.write_bytes(data.replace(b'\\"format_version\\": 2', b'\\"format_version\\": 9', 1))
    with pytest.raises(ContextFormatError, match=r"c\.safetensors has format 9, this version reads 2"):
        Context.load(file)
    other = data.replace(b'\\"texts\\": [\\"one\\"', b'\\"texts\\": [\\"ane\\"', 1)
    with pytest.raises(ContextFormatError, match=r"bytes is damaged .*do not have the hashes"):
        Context.from_bytes(other)


def test_a_context_is_saved_below_folders_that_are_not_there_yet(tmp_path) -> None:
    one, other = full_context(), full_context(words=None)
    file = one.save(tmp_path / "a" / "b")
    assert file == tmp_path / "a" / "b" / "context.safetensors"
    prints = f"holds context {one.fingerprint[:12]}, not {other.fingerprint[:12]}; .*choose another path"
    with pytest.raises(ContextMismatchError, match=prints):
        other.save(file)


def test_a_context_beside_vectors_lies_in_their_folder_of_records(tmp_path) -> None:
    beside, own = tmp_path / "_cde" / "context.safetensors", tmp_path / "context.safetensors"
    assert context_file(tmp_path) == own
    beside.parent.mkdir()
    beside.touch()
    assert context_file(tmp_path) == beside
    own.touch()
    assert context_file(tmp_path) == own
    assert context_file("x/y.safetensors") == Path("x/y.safetensors")


def test_a_seed_draws_the_same_sample_in_every_version() -> None:
    """The smallest keyed BLAKE2b hashes; another sample would be another context of the same corpus."""
    corpus = [f"document {i}" for i in range(20)]
    hashes = {text: hashlib.blake2b(text.encode(), digest_size=16, key=b"7").hexdigest() for text in corpus}
    assert sample_documents(corpus, 5, 7).texts == tuple(sorted(corpus, key=hashes.__getitem__)[:5])


def test_sizes_are_called_by_their_name_in_messages() -> None:
    with pytest.raises(ConfigError, match="context_size must be at least 1"):
        sample_documents(["a"], 0, 0)


def test_a_text_of_the_greatest_length_is_still_whole(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "LONGEST", 3)
    assert sample_documents(["abc"], 1, 0).hashes is None
    assert sample_documents(["abcd"], 1, 0) == Sample(("abc",), 1, Choice(0, 1), (hash_text("abcd"),))


def test_identity_is_of_every_part_that_changes_vectors() -> None:
    """The sha256 of sorted JSON, as in every version since 0.1.0."""
    plain = (
        '{"format_version": 1, "max_length": 64, "model": "%s", "prompts": {"document": "", "query": ""}, "texts": %s}'
    )
    hashes = "[" + ", ".join(f'"{h}"' for h in sorted(map(hash_text, TEXTS))) + "]"
    identity = plain % ("a" * 64, hashes)
    one = full_context(words=None)
    assert one.fingerprint == hashlib.sha256(identity.encode()).hexdigest()
    assert full_context().fingerprint != one.fingerprint
    assert dataclasses.replace(one, frequencies=np.zeros((0, 2))).fingerprint == one.fingerprint
