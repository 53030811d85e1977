"""Stamps by hand, and the one context of an embedding: set once, compared ever after."""

import copy
import hashlib
import pickle
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from cde_retriever.adapters.one_context import MODEL_SETTINGS, OneContext
from cde_retriever.adapters.stamps import (
    StampedVector,
    check_stamp,
    describe,
    digest_of,
    fingerprint_of,
    stamp_of,
)
from cde_retriever.context.context import Context
from cde_retriever.errors import ConfigError, ContextError, ContextMismatchError, ContextNotFittedError
from tests.tiny import documents, tiny_encoder

PRINT, OTHER = "0123456789abcdef" * 4, "f" * 64
HOW = {"seed": 0, "context_size": None, "language": None, "batch_size": 4, "show_progress": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_encoder().save_pretrained(folder)
    return folder


def settings(**changes):
    return SimpleNamespace(**(dict.fromkeys(MODEL_SETTINGS) | {"device": "cpu", "backend": "torch"} | changes))


@pytest.fixture
def one(checkpoint):
    return OneContext.of_settings(str(checkpoint), settings())


# Stamps


def test_a_stamp_is_a_fingerprint_and_how_many_numbers_were_kept():
    assert stamp_of(PRINT) == PRINT
    assert stamp_of(PRINT, 512) == f"{PRINT}/512"
    assert [fingerprint_of(stamp) for stamp in (PRINT, f"{PRINT}/512")] == [PRINT, PRINT]
    assert describe(PRINT) == "context 0123456789ab"
    assert describe(f"{PRINT}/512") == "context 0123456789ab, cut to 512 numbers"
    assert describe(None) == "an unknown context (it comes without a stamp)"


def test_a_digest_is_of_the_numbers_as_float32():
    assert digest_of([0.1, 0.2]) == digest_of(np.array([0.1, 0.2], np.float32)) == digest_of([0.1 + 1e-12, 0.2])
    assert digest_of([0.1, 0.2]) == hashlib.sha256(struct.pack("<2f", 0.1, 0.2)).hexdigest()[:16]
    assert digest_of([0.1, 0.2001]) != digest_of([0.1, 0.2])


def test_equal_stamps_pass_and_others_are_refused_by_name():
    check_stamp(PRINT, PRINT, "node 7")
    for found, in_use in ((OTHER, PRINT), (f"{PRINT}/5", PRINT), (None, PRINT), (PRINT, None)):
        message = f"^node 7 was embedded under {describe(found)}, the embedding in use has {describe(in_use)}, and"
        with pytest.raises(ContextMismatchError, match=message.replace("(", r"\(").replace(")", r"\)")):
            check_stamp(found, in_use, "node 7")


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (
            OTHER,
            "and their vectors are not comparable; open the index or store with the context it was built with, or "
            "embed its documents again under this one into a new one",
        ),
        (
            None,
            "and nothing says that their vectors are comparable; if the encoder itself made it, without this package, "
            "either `cde migrate` makes an index of ours out of what is there, or an embedding with "
            "context_for='queries' asks it as it is, through the framework's own index or store; else embed its "
            "documents again under this one into a new one",
        ),
    ],
    ids=["another context", "another program"],
)
def test_the_refusal_says_what_to_do(found, advice):
    with pytest.raises(ContextMismatchError) as caught:
        check_stamp(found, PRINT, "it")
    assert str(caught.value).endswith(advice)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda vector: pickle.loads(pickle.dumps(vector))])
def test_a_stamped_vector_is_a_list_whose_copies_keep_the_stamp(copied):
    vector = StampedVector([1.0, 2.0], PRINT)
    assert vector == [1.0, 2.0]
    again = copied(vector)
    assert (type(again), again, again.stamp) == (StampedVector, [1.0, 2.0], PRINT)


# One context


def test_settings_reach_the_model(checkpoint):
    holder = OneContext.of_settings(str(checkpoint), settings(truncate_dim=12))
    assert holder.encoder.dimension == 12
    assert holder.owner == "SimpleNamespace"
    assert holder.encoder is not OneContext.of_settings(str(checkpoint), settings()).encoder
    assert OneContext.of_settings(str(checkpoint), settings(max_length=20)).encoder.config.max_length == 20
    with pytest.raises(ConfigError, match="says variant"):
        OneContext.of_settings(str(checkpoint), settings(variant="trained"))


def test_without_a_context_there_is_nothing_to_embed_under(one):
    assert not one.is_set
    assert one.to_bytes() is None
    for name in ("context", "fingerprint", "stamp"):
        with pytest.raises(ContextNotFittedError):
            getattr(one, name)


def test_fitting_takes_every_setting(one, capsys):
    how = HOW | {"seed": 5, "context_size": 3, "show_progress": True}
    context = one.fit(iter(documents(9)), **how)
    plain = tiny_encoder().fit_context(documents(9), seed=5, context_size=3)
    assert context is one.context
    assert (context.texts, context.seed, context.documents_seen) == (plain.texts, 5, 9)
    assert context.size == 3
    assert capsys.readouterr().err != "", "lines of progress"
    OneContext(one.encoder.fork(), "x").fit(documents(9), **HOW)
    assert capsys.readouterr().err == ""


def test_the_batch_size_reaches_the_encoder(one, monkeypatch):
    asked = []
    real = type(one.encoder).fit_context
    monkeypatch.setattr(type(one.encoder), "fit_context", lambda *a, **k: asked.append(k) or real(*a, **k))
    one.fit(documents(5), **HOW | {"batch_size": 2})
    assert [(k["batch_size"], k["language"]) for k in asked] == [(2, None)]


def test_the_language_reaches_the_encoder_at_first_and_when_a_corpus_is_compared(one, monkeypatch):
    with pytest.raises(ConfigError, match="language is 'german'"):
        one.fit(documents(3), **HOW | {"language": "german"})
    context, asked = one.fit(documents(3), **HOW), []
    monkeypatch.setattr(one.encoder, "count_words", lambda *given: asked.append(given))
    assert one.fit(documents(3), **HOW | {"language": "german"}) is context
    assert asked == [(context.texts, "german")]


def test_fingerprint_and_stamp_are_those_of_the_context_and_the_kept_numbers(checkpoint, one):
    one.fit(documents(9), **HOW)
    cut = OneContext.of_settings(str(checkpoint), settings(truncate_dim=12))
    cut.set(one.context)
    assert one.fingerprint == cut.fingerprint == one.context.fingerprint
    assert (one.stamp, cut.stamp) == (one.fingerprint, f"{one.fingerprint}/12")
    assert Context.from_bytes(one.to_bytes()).fingerprint == one.fingerprint


def test_a_fingerprint_is_computed_once(one, monkeypatch):
    one.fit(documents(9), **HOW)
    expected, hashed = one.context.fingerprint, []
    monkeypatch.setattr(Context, "fingerprint", property(lambda self: hashed.append(self) or expected))
    assert [one.fingerprint for _ in range(3)] == [expected] * 3
    assert len(hashed) <= 1


def test_the_same_corpus_again_changes_nothing_and_another_is_refused_without_embedding(one, monkeypatch):
    context = one.fit(documents(20), **HOW)
    monkeypatch.setattr(one.encoder, "fit_context", lambda *_, **__: pytest.fail("embedded again"))
    assert one.fit(reversed(documents(20)), **HOW) is context
    for corpus, how in ((documents(20, seed=1), HOW), (documents(20), HOW | {"seed": 1})):
        with pytest.raises(ContextMismatchError, match=f"this SimpleNamespace has context {one.fingerprint[:12]} for"):
            one.fit(corpus, **how)
    with pytest.raises(ContextMismatchError):
        one.fit(documents(20), **HOW | {"context_size": 5})
    with pytest.raises(ContextError, match="none of the 0"):
        one.fit([], **HOW)
    assert one.context is context


def test_another_context_is_refused_by_both_fingerprints_and_the_way_out(one, checkpoint):
    other = OneContext(one.encoder.fork(), "Other").fit(documents(5), **HOW)
    one.fit(documents(20), **HOW)
    with pytest.raises(ContextMismatchError) as caught:
        one.set(other)
    assert str(caught.value) == (
        f"this SimpleNamespace has context {one.fingerprint[:12]} for life and was given {other.fingerprint[:12]}: an "
        "index or store may depend on the first; make a new SimpleNamespace for the other corpus, and a new index or "
        "store for its vectors"
    )
    with pytest.raises(ContextMismatchError):
        one.set_null()
    one.set(Context.from_bytes(one.to_bytes()))
    assert one.context.size == 16


def test_the_null_context_is_a_context_of_no_documents(one):
    one.set_null()
    assert one.is_set
    assert one.context.size == 0
    one.set_null()
    assert one.fingerprint == tiny_encoder().null_context().fingerprint


def test_a_context_of_another_model_is_refused(one):
    other = tiny_encoder(seed=1)
    with pytest.raises(ContextMismatchError):
        one.set(other.fit_context(documents(5)))
    assert not one.is_set
