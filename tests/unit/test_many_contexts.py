"""Texts under many contexts at once: the vectors of each context alone."""

import numpy as np
import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.many_contexts import encode_under
from tests.tiny import documents, tiny_encoder


@pytest.mark.parametrize(
    "settings",
    [{}, {"context_attention": "late", "term_statistics": True, "sketch_width": 64}],
    ids=["cached", "late"],
)
def test_many_contexts_at_once_give_what_each_gives_alone(settings):
    encoder = tiny_encoder(**settings)
    contexts = [encoder.fork().fit_context(documents(30, seed=seed)) for seed in (1, 2)] + [encoder.null_context()]
    texts = documents(40, seed=7)
    for role in ("document", "query"):
        together = encode_under(encoder, texts, role, contexts)
        for vectors, context in zip(together, contexts, strict=True):
            encoder.set_context(context)
            alone = encoder.encode_documents(texts) if role == "document" else encoder.encode_queries(texts)
            np.testing.assert_allclose(vectors, alone, atol=1e-6, rtol=0)


def test_a_loaded_encoder_keeps_its_packed_weights_and_its_context(tmp_path):
    start = tiny_encoder(context_attention="late", term_statistics=True, sketch_width=64)
    encoder = ContextualEncoder.from_pretrained(start.save_pretrained(tmp_path / "model"), device="cpu")
    context = encoder.fit_context(documents(30))
    running = encoder.backend.running
    (vectors,) = encode_under(encoder, documents(5), "document", [encoder.null_context()])
    assert encoder.backend.running is running
    assert encoder.context is context
    start.set_context(start.null_context())
    np.testing.assert_allclose(vectors, start.encode_documents(documents(5)), atol=2e-6, rtol=0)
