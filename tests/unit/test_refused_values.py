"""Numbers and names that users give wrongly: a sentence with the value, whatever is given."""

import dataclasses
import json

import numpy as np
import pytest

from cde_retriever import (
    CheckpointError,
    ConfigError,
    Context,
    ContextError,
    ContextFormatError,
    ContextMismatchError,
    ContextualEncoder,
)
from cde_retriever.context.sampling import sample_documents
from cde_retriever.context.whole_numbers import whole_number
from tests.tiny import documents, headed_encoder, tiny_encoder

TERMS = {"context_attention": "late", "context_moments": False, "term_statistics": True}


class Table(list):
    """Yields the names of its columns, as that of pandas does."""

    ndim = 2


class Series:
    """Values that can be iterated over, and no sequence, as that of pandas is."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)


@pytest.fixture(scope="module")
def encoder():
    made = tiny_encoder()
    made.fit_context(documents(20))
    return made


@pytest.fixture(scope="module")
def headed():
    made = headed_encoder()
    made.fit_context(documents(20))
    return made


@pytest.mark.parametrize("name", ["seed", "context_size", "batch_size"])
@pytest.mark.parametrize("value", [1.5, "1", True, [1], np.float64(2)])
def test_what_is_no_whole_number_is_refused(encoder, name, value):
    before = encoder.context
    with pytest.raises(TypeError, match=f"{name} must be a whole number, received"):
        encoder.fit_context(documents(20), **{name: value})
    assert encoder.context is before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", 10**70, "seed must be at most 9223372036854775807, received a number of 233 bits"),
        ("seed", -(10**70), "seed must be at least -9223372036854775808, received -1000"),
        ("context_size", 0, "context_size must be at least 1, received 0"),
        ("context_size", -3, "context_size must be at least 1, received -3"),
        ("batch_size", 0, "batch_size must be at least 1, received 0"),
    ],
)
def test_numbers_out_of_range_are_refused(encoder, name, value, message):
    with pytest.raises(ConfigError, match=message):
        encoder.fit_context(documents(20), **{name: value})


def test_a_seed_of_none_is_refused_and_numpy_counts():
    with pytest.raises(TypeError, match="seed must be a whole number, received None"):
        sample_documents(["a"], 4, None)
    assert whole_number("n", np.int32(3), 1) == 3
    for seed in (-5, np.int64(7), 2**63 - 1):
        assert sample_documents(documents(40), 8, seed).choice.seed == int(seed)
    assert sample_documents(documents(40), 8, np.int64(7)) == sample_documents(documents(40), 8, 7)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.5, TypeError, "truncate_dim must be a whole number, received 1.5"),
        (0, ConfigError, "truncate_dim must be at least 1, received 0"),
        (33, ConfigError, "truncate_dim is 33, but vectors of tiny-bert have 32 numbers"),
    ],
)
def test_dimensions_the_vectors_do_not_have_are_refused(encoder, value, error, message):
    with pytest.raises(error, match=message):
        encoder.fork(truncate_dim=value)


@pytest.mark.parametrize("texts", [{"ba": 1}, Table(["ba"]), np.array([["ba"]]), b"ba", None, 3])
def test_what_does_not_hold_texts_is_refused(headed, texts):
    """A table gives the names of its columns, one after the other, and a mapping its keys."""
    for call in (headed.encode_queries, headed.encode_documents, headed.tokenize):
        with pytest.raises(TypeError, match=f"expected a sequence of strings, received one {type(texts).__name__}"):
            call(texts)
    for call in (headed.fit_context, headed.list_context, headed.context.drift):
        with pytest.raises(
            TypeError, match=f"documents must be an iterable of strings, received one .*{type(texts).__name__}"
        ):
            call(texts)


@pytest.mark.parametrize("kind", [iter, tuple, np.array, Series])
def test_texts_may_come_in_any_order_of_things(headed, kind):
    texts = documents(3)
    expected = headed.encode_documents(texts, chunks_of=[1, 1, 2])
    assert (headed.encode_documents(kind(texts), chunks_of=kind([1, 1, 2])) == expected).all()
    for parts in ("one", "both"):
        again, once = (headed.encode_queries(given, parts=parts) for given in (kind(texts), texts))
        np.testing.assert_array_equal(getattr(again, "dense", again), getattr(once, "dense", once))
    under = headed.encode_under(kind(texts), "document", iter([headed.context]))
    np.testing.assert_allclose(under[0], headed.encode_documents(texts), atol=1e-6)


def test_a_language_is_a_name_and_vectors_are_one_a_document(headed):
    for value in (5, ["english"]):
        with pytest.raises(TypeError, match="language must be a name such as 'german', received"):
            headed.fit_context(documents(20), language=value)
    plain = headed.context.vectors
    for vectors in (plain[:3], plain[:5, :7], np.zeros(5)):
        with pytest.raises(ContextError, match=r"vectors have the shape .*, expected \(5, 32\): the plain vector of"):
            headed.context.drift(documents(5, seed=2), vectors)
    assert headed.context.drift(documents(5, seed=2), plain[:5].tolist()).judged == 5


def test_an_unknown_role_is_refused(encoder):
    for call in (lambda: encoder.tokenize(["a"], "title"), lambda: encoder.encode_under(["a"], "title", [])):
        with pytest.raises(ConfigError, match="role is 'title', expected 'query' or 'document'"):
            call()


def test_tokens_beyond_the_vocabulary_are_refused():
    encoder = tiny_encoder(**TERMS)
    context = encoder.fit_context(documents(20))
    frequencies = context.frequencies.copy()
    frequencies[-1, 0] = 10**6
    foreign = Context.from_bytes(dataclasses.replace(context, frequencies=frequencies).to_bytes())
    with pytest.raises(ContextMismatchError, match="counts token 1000000, but tiny-bert knows tokens 0 to "):
        encoder.set_context(foreign)
    assert encoder.context is context
    tokenizer = encoder.tokenizer
    tokenizer.add_tokens(["entirely-new"])
    with pytest.raises(CheckpointError, match=r"the tokenizer of tiny-bert gives token ids up to \d+, but the model"):
        ContextualEncoder.from_model(encoder.open_model(), tokenizer)


def test_deep_json_in_a_context_file_is_damage(encoder):
    data = encoder.context.to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for depth in (1_000, 100_000):
        header["__metadata__"]["cde_context"] = "[" * depth + "]" * depth
        written = json.dumps(header).encode()
        with pytest.raises(ContextFormatError, match=r"damaged|not a context"):
            Context.from_bytes(len(written).to_bytes(8, "little") + written + data[8 + length :])
        nested = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(ContextFormatError):
            Context.from_bytes(len(nested).to_bytes(8, "little") + nested)


def test_an_encoder_says_what_it_is():
    encoder = tiny_encoder()
    assert repr(encoder) == "ContextualEncoder(tiny-bert, 32 numbers, texts up to 64 tokens, cpu, no context)"
    context = encoder.fit_context(documents(20))
    assert repr(encoder.fork(truncate_dim=8)).startswith("ContextualEncoder(tiny-bert, 8 numbers, ")
    assert repr(encoder).endswith(f"cpu, Context({context.fingerprint[:12]}, 16 of 20 documents, tiny-bert))")
