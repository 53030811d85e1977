"""A context keeps the topics found of it: opened, it gives the same vectors to the last bit and does not seek them."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save

from cde_retriever.context.context import METADATA_KEY, Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.errors import ContextFormatError
from cde_retriever.files.tensors import read_tensors
from tests.tiny import documents, headed_encoder, tiny_encoder

TEXTS = documents(40, seed=1)
HEAD = {"topics": 6, "sketch": 9}


@pytest.fixture(scope="module")
def encoder():
    encoder = headed_encoder(**HEAD)
    encoder.fit_context(TEXTS, context_size=16)
    return encoder


def vectors(encoder, context):
    """Return what an encoder makes of texts under a context, one at a time and many."""
    twin = encoder.fork()
    twin.set_context(context)
    alone = [twin.encode_queries([text])[0].tobytes() for text in TEXTS[:3]]
    return alone, twin.encode_queries(TEXTS[20:]).tobytes(), twin.encode_documents(TEXTS).tobytes()


def refuse(*_):
    raise AssertionError("topics are found again")


def test_a_stored_context_is_opened_with_its_topics_and_vectors_are_the_same_bits(encoder, tmp_path, monkeypatch):
    expected = vectors(encoder, dataclasses.replace(encoder.context, topics=None))
    assert vectors(encoder, encoder.context) == expected
    opened = Context.load(encoder.context.save(tmp_path))
    monkeypatch.setattr(np.linalg, "eigh", refuse)
    assert vectors(encoder, opened) == expected
    assert opened.to_bytes() == encoder.context.to_bytes()
    with pytest.raises(AssertionError, match="found again"):
        vectors(encoder, dataclasses.replace(opened, topics=None))


def test_a_file_without_topics_is_the_same_context(encoder):
    before = dataclasses.replace(encoder.context, topics=None)
    old, new = before.to_bytes(), encoder.context.to_bytes()
    assert set(read_tensors(new)[0]) - set(read_tensors(old)[0]) == {"topics_directions", "topics_projected"}
    assert Context.from_bytes(old).topics is None
    assert before.fingerprint == Context.from_bytes(old).fingerprint == encoder.context.fingerprint
    directions, projected, settings = encoder.context.topics
    assert (directions.shape, projected.shape) == ((16, 6), (6, 9))
    found_by = {"topics": 6, "sketch": 9, "prior": "english", "prior_documents": 4.0}
    assert settings == {**found_by, "attended": 1024}
    assert HeadSettings(topics=6, sketch=9, attended=0).topic_settings == found_by  # as before it counted


def test_topics_found_by_other_settings_are_not_used(encoder):
    shorter = encoder.fork(truncate_dim=encoder.dimension - 10)  # no sketch, and one topic less
    other = dataclasses.replace(encoder.context, topics=None)
    assert vectors(shorter, encoder.context) == vectors(shorter, other)
    assert shorter.list_context(TEXTS[:16]).topics.directions.shape == (16, 5)
    assert encoder.fork(truncate_dim=encoder.dimension - 16).list_context(TEXTS[:16]).topics is None
    assert tiny_encoder().fit_context(TEXTS, context_size=8).topics is None


def with_topics_of(data, other, *, headers):
    """Return the file of a context with the topics of another, with or without what its header says of them."""
    (own, metadata), (theirs, said) = read_tensors(data), read_tensors(other)
    header = json.loads(metadata[METADATA_KEY])
    if headers:
        header["topics"] = json.loads(said[METADATA_KEY])["topics"]
    arrays = own | {name: array for name, array in theirs.items() if name.startswith("topics_")}
    return save(arrays, {METADATA_KEY: json.dumps(header)})


def test_damaged_and_foreign_topics_are_refused(encoder):
    data = encoder.context.to_bytes()
    for array in encoder.context.topics[:2]:
        place = data.index(array.tobytes())
        with pytest.raises(ContextFormatError, match="topics have another hash"):
            Context.from_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    other = encoder.fork().list_context(TEXTS[20:36]).to_bytes()
    assert Context.from_bytes(with_topics_of(data, data, headers=True)).fingerprint == encoder.context.fingerprint
    for headers in (False, True):
        with pytest.raises(ContextFormatError, match="topics have another hash"):
            Context.from_bytes(with_topics_of(data, other, headers=headers))
    with pytest.raises(ContextFormatError, match="topics have another hash"):
        Context.from_bytes(data.replace(b'\\"topics\\": 6', b'\\"topics\\": 5', 1))
