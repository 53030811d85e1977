"""Sampling a corpus, and the context as an artifact."""

import dataclasses
import hashlib
import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cde_retriever.context import sampling
from cde_retriever.context.context import Context, ModelIdentity, known_documents
from cde_retriever.context.making import make_context
from cde_retriever.context.sampling import hash_text, sample_documents
from cde_retriever.errors import ContextError, ContextFormatError, ContextMismatchError
from tests.tiny import documents

MODEL = ModelIdentity(name="m", revision=None, sha256="a" * 64, prompts={"query": "", "document": ""}, max_length=64)


def context(texts: list[str], *, model: ModelIdentity = MODEL, seed: int = 0, store_texts: bool = True) -> Context:
    sample = sample_documents(texts, 16, seed)
    vectors = np.arange(len(sample.texts) * 3, dtype=np.float32).reshape(-1, 3)
    return make_context(sample, vectors, model, store_texts=store_texts, needs=None)


def test_sample_is_seeded_distinct_and_from_the_corpus() -> None:
    corpus = documents(500)
    first, again, other = (sample_documents(corpus, 50, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.texts != other.texts
    assert len(set(first.texts)) == 50
    assert set(first.texts) <= set(corpus)
    assert first.documents_seen == 500


@given(st.lists(st.text(alphabet="abc ", max_size=4), min_size=1, max_size=60), st.integers(1, 12), st.randoms())
@settings(deadline=None)
def test_sample_depends_on_the_set_of_texts_only(corpus: list[str], size: int, random) -> None:
    distinct = {text for text in corpus if text.strip()}
    if not distinct:
        with pytest.raises(ContextError, match="none of the"):
            sample_documents(corpus, size, 0)
        return
    sample = sample_documents(corpus, size, 0)
    shuffled = [*corpus, *corpus]
    random.shuffle(shuffled)
    assert len(sample.texts) == len(set(sample.texts)) == min(size, len(distinct))
    assert sample_documents(shuffled, size, 0).texts == sample.texts


def test_sample_is_uniform() -> None:
    """Each of 20 documents is drawn 5 times in 20; 2,000 seeds; six standard deviations allowed."""
    corpus = [f"document {i}" for i in range(20)]
    counts = Counter(text for seed in range(2000) for text in sample_documents(corpus, 5, seed).texts)
    expected, deviation = 500, (2000 * 0.25 * 0.75) ** 0.5
    assert set(counts) == set(corpus)
    assert max(abs(count - expected) for count in counts.values()) < 6 * deviation


def test_sample_takes_one_pass_and_bounded_memory() -> None:
    def stream(count: int):
        for i in range(count):
            yield f"document number {i} " + "x" * 1000

    def peak(count: int) -> int:
        tracemalloc.start()
        sample = sample_documents(stream(count), 32, 0)
        assert sample.documents_seen == count
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(20_000) < 1.2 * peak(1_000)


def test_sample_rejects_what_is_not_a_corpus_of_strings() -> None:
    with pytest.raises(TypeError, match="one str"):
        sample_documents("a single text", 4, 0)
    with pytest.raises(TypeError, match="document 1 is int"):
        sample_documents(["a", 3], 4, 0)
    with pytest.raises(ContextError, match="none of the 2 documents"):
        sample_documents(["", " \n"], 4, 0)
    with pytest.raises(ContextError, match="none of the 0 documents"):
        sample_documents([], 4, 0)
    with pytest.raises(ValueError, match="at least 1, received 0"):
        sample_documents(["a"], 0, 0)
    with pytest.raises(ValueError, match="document 1 is not valid Unicode"):
        sample_documents(["a", "\ud800"], 4, 0)


def test_of_long_documents_a_sample_holds_the_beginning_and_the_hash(monkeypatch):
    corpus = ["baron " * 9 + str(i) for i in range(20)] + ["short"]
    whole = sample_documents(corpus, 8, 0)
    assert whole.hashes is None
    monkeypatch.setattr(sampling, "LONGEST", 50)
    held = sample_documents([*corpus, *corpus], 8, 0)
    assert held.texts == tuple(text[:50] for text in whole.texts)
    assert held.hashes == tuple(hashlib.sha256(text.encode()).hexdigest() for text in whole.texts)
    vectors = np.ones((8, 2), np.float32)
    contexts = [make_context(sample, vectors, MODEL, store_texts=True, needs=None) for sample in (whole, held)]
    assert contexts[0].fingerprint == contexts[1].fingerprint
    assert (contexts[0].texts, contexts[1].texts) == (whole.texts, None)


def test_fingerprint_is_of_model_and_texts_not_of_floats_order_or_names() -> None:
    one = context(documents(10))
    noisy = dataclasses.replace(one, vectors=one.vectors + 1e-4)
    reordered = dataclasses.replace(one, texts=one.texts[::-1], text_hashes=one.text_hashes[::-1])
    renamed = dataclasses.replace(one, model=dataclasses.replace(MODEL, name="other", revision="abc"))
    assert {c.fingerprint for c in (one, noisy, reordered, renamed)} == {one.fingerprint}
    assert len(one.fingerprint) == 64


@pytest.mark.parametrize(
    "change",
    [{"sha256": "b" * 64}, {"prompts": {"query": "q: ", "document": ""}}, {"max_length": 65}],
    ids=["weights", "prompts", "length"],
)
def test_fingerprint_changes_with_the_model(change: dict) -> None:
    other = dataclasses.replace(MODEL, **change)
    assert context(documents(10), model=other).fingerprint != context(documents(10)).fingerprint


def test_fingerprint_changes_with_the_texts() -> None:
    prints = {context(documents(10, seed=seed)).fingerprint for seed in range(5)}
    null = Context(vectors=np.zeros((0, 3), np.float32), model=MODEL)
    assert len(prints | {null.fingerprint}) == 6


def test_order_belongs_to_the_identity_where_the_model_sees_it() -> None:
    one = context(documents(10), model=dataclasses.replace(MODEL, ordered=True))
    reordered = dataclasses.replace(one, texts=one.texts[::-1], text_hashes=one.text_hashes[::-1])
    assert one.fingerprint != reordered.fingerprint


@pytest.mark.parametrize("store_texts", [True, False])
def test_round_trip(tmp_path, store_texts: bool) -> None:
    one = context(documents(40), store_texts=store_texts)
    for path in (tmp_path / "folder", tmp_path / "a" / "file.safetensors"):
        file = one.save(path)
        back = Context.load(path)
        assert file.is_file()
        assert back.fingerprint == one.fingerprint
        np.testing.assert_array_equal(back.vectors, one.vectors)
        for name in ("model", "text_hashes", "texts", "seed", "documents_seen", "oversampled_to"):
            assert getattr(back, name) == getattr(one, name)
        assert (back.texts is None) is not store_texts
    if not store_texts:
        assert one.to_bytes().find(context(documents(40)).texts[0].encode()) == -1


def test_context_is_immutable() -> None:
    one = context(documents(10))
    with pytest.raises(ValueError, match="read-only"):
        one.vectors[0, 0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 3
    source = np.zeros((0, 3), np.float32)
    assert Context(vectors=source, model=MODEL).vectors is not source


def test_save_never_replaces_another_context(tmp_path) -> None:
    one, other = context(documents(10)), context(documents(10, seed=1))
    one.save(tmp_path)
    one.save(tmp_path)
    with pytest.raises(ContextMismatchError, match=f"{one.fingerprint[:12]}, not {other.fingerprint[:12]}"):
        other.save(tmp_path)
    assert Context.load(tmp_path).fingerprint == one.fingerprint


def test_every_flipped_byte_is_noticed(tmp_path) -> None:
    """A damaged file raises, or is damaged where nothing is read (blanks between JSON and tensor)."""
    data = context(documents(3)).to_bytes()
    fingerprint, noticed = context(documents(3)).fingerprint, 0
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x20
        try:
            back = Context.from_bytes(bytes(damaged))
        except ContextFormatError:
            noticed += 1
        else:
            assert back.fingerprint == fingerprint
            np.testing.assert_array_equal(back.vectors, context(documents(3)).vectors)
    assert noticed > 0.9 * len(range(0, len(data), 7))


def test_load_says_what_is_wrong(tmp_path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no context at .*nothing.*; restore it from a copy, since its vectors go"
    ):
        Context.load(tmp_path / "nothing")
    (tmp_path / "vectors/_cde").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no context at .*vectors/_cde/context.safetensors; restore"):
        Context.load(tmp_path / "vectors")
    (tmp_path / "context.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ContextFormatError, match="is damaged"):
        Context.load(tmp_path)
    data = context(documents(3)).to_bytes()
    with pytest.raises(ContextFormatError, match="is damaged"):
        Context.from_bytes(data[: len(data) // 2])
    newer = data.replace(b'\\"format_version\\": 1', b'\\"format_version\\": 7', 1)
    assert newer != data
    with pytest.raises(ContextFormatError, match="has format 7, this version reads 1"):
        Context.from_bytes(newer)


def test_texts_and_hashes_must_agree() -> None:
    one = context(documents(3))
    with pytest.raises(ContextError, match="do not have the hashes"):
        dataclasses.replace(one, texts=("x", *one.texts[1:]))
    with pytest.raises(ContextError, match="one vector a text"):
        dataclasses.replace(one, vectors=one.vectors[:1])


def test_known_documents_counts_shared_texts() -> None:
    one = context(documents(10))
    assert known_documents(one, documents(10)) == 10
    assert known_documents(one, documents(10, seed=9)) == 0
    assert known_documents(one, [one.texts[3]]) == 1


def test_header_is_json_a_person_can_read() -> None:
    data = context(documents(3)).to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["cde_context"])
    assert header["model"]["name"] == "m"
    assert header["method"] == "sample", "versions before this one read it"
    assert header["text_hashes"] == [hash_text(text) for text in header["texts"]]
