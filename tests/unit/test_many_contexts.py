"""Texts under many contexts at once: the vectors of each context alone."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cde_retriever import ContextMismatchError, ContextualEncoder, TruncationWarning
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
        together = encoder.encode_under(texts, role, contexts)
        for vectors, context in zip(together, contexts, strict=True):
            encoder.set_context(context)
            alone = encoder.encode_documents(texts) if role == "document" else encoder.encode_queries(texts)
            np.testing.assert_allclose(vectors, alone, atol=1e-6, rtol=0)


def test_a_loaded_encoder_keeps_its_packed_weights_and_its_context(tmp_path):
    start = tiny_encoder(context_attention="late", term_statistics=True, sketch_width=64)
    encoder = ContextualEncoder.from_pretrained(start.save_pretrained(tmp_path / "model"), device="cpu")
    context = encoder.fit_context(documents(30))
    running = encoder.backend.running
    (vectors,) = encoder.encode_under(documents(5), "document", [encoder.null_context()])
    assert encoder.backend.running is running
    assert encoder.context is context
    start.set_context(start.null_context())
    np.testing.assert_allclose(vectors, start.encode_documents(documents(5)), atol=2e-6, rtol=0)


@pytest.mark.parametrize("layout", ["cached", "late"])
def test_one_call_at_a_time_runs_over_all_forks(layout, monkeypatch):
    """A backend may be called by one thread at a time; `encode_under` takes its turn like the others."""
    encoder = tiny_encoder(context_attention=layout)
    context = encoder.fit_context(documents(20))
    inside, most = [], []

    def counting(run):
        def counted(*arguments):
            inside.append(None)
            most.append(len(inside))
            time.sleep(0.001)
            found = run(*arguments)
            inside.pop()
            return found

        return counted

    for name in ("embed", "embed_under", "prepare"):
        monkeypatch.setattr(encoder.backend, name, counting(getattr(encoder.backend, name)))
    texts = documents(12)
    with ThreadPoolExecutor(6) as pool:
        together = [pool.submit(encoder.encode_under, texts, "query", [context] * 2, batch_size=1) for _ in range(3)]
        alone = [pool.submit(encoder.encode_documents, texts, batch_size=1) for _ in range(3)]
    for vectors in [v for done in together for v in done.result()] + [done.result() for done in alone]:
        np.testing.assert_allclose(vectors, alone[0].result(), atol=1e-5, rtol=0)
    assert len(most) > 20
    assert max(most) == 1


def test_shorter_vectors_no_contexts_and_texts_that_are_cut():
    encoder = tiny_encoder(context_attention="late").fork(truncate_dim=9)
    context = encoder.fit_context(documents(20))
    with pytest.warns(TruncationWarning, match="1 of 2 texts"):
        (vectors,) = encoder.encode_under(["baron", "kolak " * 99], "query", [context])
    with pytest.warns(TruncationWarning):
        np.testing.assert_allclose(vectors, encoder.encode_queries(["baron", "kolak " * 99]), atol=1e-6)
    assert encoder.encode_under(["baron"], "document", []) == []
    with pytest.raises(ContextMismatchError):
        encoder.encode_under(["baron"], "document", [tiny_encoder(seed=3).fit_context(documents(20))])
