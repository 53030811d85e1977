"""Shorter vectors: unit length, the start of the long ones, and a projection that keeps its weight."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cde_retriever import ContextualEncoder
from cde_retriever.encoder.dimensions import shorten
from cde_retriever.errors import ConfigError
from tests.tiny import documents, tiny_backbone, tiny_encoder, tiny_tokenizer

TERMS = {"context_attention": "late", "context_moments": False, "term_statistics": True, "sketch_width": 64}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_plain_vectors_are_cut_and_made_unit():
    vectors = unit(np.random.default_rng(0).normal(size=(5, 16))).astype(np.float32)
    np.testing.assert_allclose(shorten(vectors, 6, 0), unit(vectors[:, :6]), atol=1e-6)
    np.testing.assert_allclose(shorten(vectors, 16, 0), vectors, atol=1e-6)


@pytest.mark.parametrize("kept", [1, 4, 8])
def test_what_is_left_of_a_projection_keeps_its_share(kept):
    vectors = unit(np.random.default_rng(0).normal(size=(5, 16))).astype(np.float32)
    short = shorten(vectors, 8 + kept, 8)
    np.testing.assert_allclose(short[:, :8], vectors[:, :8], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(short[:, 8:], axis=1), np.linalg.norm(vectors[:, 8:], axis=1), atol=1e-6)
    np.testing.assert_allclose(unit(short[:, 8:]), unit(vectors[:, 8 : 8 + kept]), atol=1e-5)
    np.testing.assert_allclose(shorten(vectors, 8, 8), unit(vectors[:, :8]), atol=1e-6)


def test_a_text_without_terms_stays_finite():
    vectors = np.eye(3, 16, dtype=np.float32)
    assert np.isfinite(shorten(vectors, 10, 8)).all()


@pytest.mark.parametrize(("backend", "settings"), [("torch", {}), ("torch", TERMS), ("onnx", TERMS)])
@pytest.mark.usefixtures("exports")
def test_an_encoder_gives_shorter_vectors(tmp_path, settings, backend):
    if backend == "onnx":
        pytest.importorskip("onnxruntime")
    backbone = tiny_backbone("bert", tiny_tokenizer().get_vocab_size()) | {"num_hidden_layers": 1}
    folder = tiny_encoder(second_stage=backbone, **settings).save_pretrained(tmp_path / "model")
    whole = ContextualEncoder.from_pretrained(folder, device="cpu", backend=backend)
    size = whole.dimension - 8
    short = ContextualEncoder.from_pretrained(folder, device="cpu", backend=backend, truncate_dim=size)
    context = whole.fit_context(documents(40))
    short.set_context(context)
    assert (short.dimension, short.fork().dimension, whole.fork(truncate_dim=9).dimension) == (size, size, 9)
    texts = documents(20, seed=3)
    expected = shorten(whole.encode_documents(texts), size, whole.config.sketch_width)
    np.testing.assert_allclose(short.encode_documents(texts), expected, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def ask(text):
            barrier.wait(10)
            return short.encode_queries([text])[0]

        np.testing.assert_allclose(np.stack(list(pool.map(ask, texts))), expected, atol=1e-5)


@pytest.mark.parametrize("size", [0, -1, 33])
def test_a_size_the_vectors_do_not_have_is_refused(tmp_path, size):
    folder = tiny_encoder().save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"truncate_dim (is 33, .* 1 to 32|must be at least 1, received {size})"):
        ContextualEncoder.from_pretrained(folder, device="cpu", truncate_dim=size)
