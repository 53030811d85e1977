"""What a second stage is told of a context: number, vectors and words of its documents, each only if it reads it."""

import math

import numpy as np
import pytest
import torch

from cde_retriever.encoder.tokens import TextTokenizer
from cde_retriever.model.evidence import Evidence
from tests.tiny import documents, tiny_encoder

TERMS = {"context_attention": "late", "context_moments": False, "term_statistics": True}
BOTH = TERMS | {"context_moments": True}


@pytest.fixture
def told(monkeypatch):
    """Return what backends are told of contexts, as a list that grows."""
    from cde_retriever.backends.pytorch import TorchBackend

    seen, prepare = [], TorchBackend.prepare

    def listening(self, evidence):
        seen.append(evidence)
        return prepare(self, evidence)

    monkeypatch.setattr(TorchBackend, "prepare", listening)
    return seen


def counted(encoder, texts):
    """Count by hand in how many texts each token occurs."""
    counts = np.zeros(encoder.vocabulary_size)
    for encoding in encoder.tokenizer.encode_batch(texts):
        counts[sorted(set(encoding.ids))] += 1
    return counts


@pytest.mark.parametrize(
    ("config", "vectors", "frequencies"), [({}, True, False), (TERMS, False, True), (BOTH, True, True)]
)
def test_a_model_is_told_what_it_reads(told, config, vectors, frequencies):
    encoder = tiny_encoder(**config)
    context = encoder.fit_context(documents(40))
    encoder.set_context(encoder.null_context())
    full, null = told
    assert (full.documents, null.documents) == (16, 0)
    for evidence in told:
        assert (evidence.vectors is not None, evidence.frequencies is not None) == (vectors, frequencies)
    if vectors:
        np.testing.assert_array_equal(full.vectors, encoder.encode_first_stage(context.texts))
        assert null.vectors.shape == (0, 32)
    if frequencies:
        np.testing.assert_array_equal(full.frequencies, counted(encoder, context.texts))
        assert not null.frequencies.any()


def test_a_model_of_fixed_size_is_told_of_each_document_as_often_as_it_needs(told):
    encoder = tiny_encoder(context_attention="joint", positions="sequence")
    context = encoder.fit_context(documents(5))
    (evidence,) = told
    assert evidence.documents == 16
    np.testing.assert_array_equal(evidence.vectors, context.vectors[[0, 1, 2, 3, 4] * 3 + [0]])


def test_moments_and_terms_of_a_sample_are_tokenised_once(monkeypatch):
    encoder = tiny_encoder(**BOTH)
    seen, tokenize = [], TextTokenizer.tokenize
    monkeypatch.setattr(
        TextTokenizer, "tokenize", lambda self, texts, role: seen.append(tuple(texts)) or tokenize(self, texts, role)
    )
    context = encoder.fit_context(documents(40))
    assert seen == [context.texts]


@pytest.mark.parametrize("dropped", [None, torch.arange(9) % 3 == 1])
def test_documents_that_are_dropped_do_not_count(dropped):
    """Tokens have p = (df + κ prior) / (c + κ), after the docstring of `cde_retriever.model.terms`."""
    encoder = tiny_encoder(**TERMS)
    second = encoder.open_model().second_stage
    frequencies = torch.arange(float(encoder.vocabulary_size)) % 5
    with torch.no_grad():
        (state,) = second.prepare(Evidence(9, frequencies=frequencies), dropped)
    head = second.term_head
    worth = math.exp(head.log_documents.item())
    share = (frequencies + worth * head.log_prior.exp()) / ((9 if dropped is None else 6) + worth)
    expected = torch.log((1 + share) / (2 * share)).clamp_min(0)
    torch.testing.assert_close(state, expected.detach(), atol=1e-6, rtol=1e-5)
