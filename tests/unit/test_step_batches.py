"""What a cached step is given: batches that move to a device, and chunks in the order of length."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.direct_step import direct_step
from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from tests.parity.test_gradient_caching import gradients, model_and_batch
from tests.tiny import documents, tiny_encoder

META = torch.device("meta")


def batch_of(context, **parts):
    return TwoStageBatch([[1, 2]], [[3], [4]], context, torch.zeros(1, 2, dtype=torch.bool), **parts)


def test_tensors_move_to_a_device_and_token_ids_stay():
    whole = batch_of(torch.ones(3, 4), dropped=torch.zeros(3, dtype=torch.bool), frequencies=torch.ones(9)).to(META)
    for tensor, shape in (
        (whole.context, (3, 4)),
        (whole.false_negatives, (1, 2)),
        (whole.dropped, (3,)),
        (whole.frequencies, (9,)),
    ):
        assert (tensor.device, tuple(tensor.shape)) == (META, shape)
    assert (whole.queries, whole.documents) == ([[1, 2]], [[3], [4]])
    for context in ([[5, 6], [7]], 2):
        plain = batch_of(context).to(META)
        assert (plain.context, plain.dropped, plain.frequencies) == (context, None, None)
        assert plain.false_negatives.device == META


@pytest.mark.parametrize(("context", "count"), [(torch.ones(3, 4), 3), ([[5, 6], [7]], 2), ([], 0), (5, 5)])
def test_evidence_is_what_the_second_stage_is_told(context, count):
    vectors, frequencies = torch.ones(count, 4), torch.ones(9)
    evidence = batch_of(context, frequencies=frequencies).evidence(vectors)
    assert evidence.documents == count
    assert evidence.vectors is vectors
    assert evidence.frequencies is frequencies
    assert batch_of(context).evidence(None).frequencies is None


def test_chunks_hold_the_longest_texts_first():
    def pad(ids):
        width = max(map(len, ids))
        return np.array([[*row, *[0] * (width - len(row))] for row in ids]), np.ones((len(ids), width), np.int64)

    chunks = list(Chunking(pad, 2).chunks([[1], [2, 2, 2], [3, 3], [4, 4, 4, 4], [5, 5]]))
    assert [rows for rows, _, _ in chunks] == [[3, 1], [2, 4], [0]]
    assert [ids.tolist() for _, ids, _ in chunks] == [[[4, 4, 4, 4], [2, 2, 2, 0]], [[3, 3], [5, 5]], [[1]]]
    assert [tuple(mask.shape) for _, _, mask in chunks] == [(2, 4), (2, 2), (1, 1)]
    assert isinstance(Chunking(pad, 2).autocast(), nullcontext)


@pytest.mark.parametrize("step", [cached_step, direct_step])
def test_every_part_is_computed_under_autocast(step):
    """One context manager for each chunk of each stage, and one for the state; made anew, never entered twice."""
    encoder, entered, laps = tiny_encoder(), [], []
    model = encoder.open_model().requires_grad_(True)
    ids = encoder.tokenize(documents(8, seed=1), "document").ids
    batch = TwoStageBatch(ids[:2], ids[2:4], ids[4:], torch.zeros(2, 2, dtype=torch.bool))

    def autocast():
        entered.append(torch.autocast("cpu", torch.bfloat16))
        return entered[-1]

    result = step(model, batch, 0.05, Chunking(encoder.text_tokenizer().pad, 2, autocast, laps.append))
    # direct: once for all. cached: two chunks of the context, the state, two chunks of texts, the last with its graph;
    # the other again, and the context.
    assert len(entered) == (1 if step is direct_step else 2 + 1 + 2 + 1 + 2)
    assert laps == ([] if step is direct_step else ["first pass", "loss", "second pass"])
    assert result.loss.dtype == torch.float32
    assert not result.loss.requires_grad
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_weights_in_half_precision_give_a_loss_in_full_and_gradients_like_theirs():
    model, batch, pad = model_and_batch()
    exact, gradient = gradients(model, lambda: direct_step(model, batch, 0.05, Chunking(pad, 3)))
    model.bfloat16()
    result = cached_step(model, batch, 0.05, Chunking(pad, 3))
    assert result.loss.dtype == torch.float32
    assert result.loss.item() == pytest.approx(exact, abs=0.1)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == gradient.keys()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    flat = [torch.cat([tensors[name].double().flatten() for name in gradient]) for tensors in (found, gradient)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.95


@pytest.mark.parametrize("step", [cached_step, direct_step])
def test_accuracy_counts_queries_whose_positive_is_best_of_what_is_left_in(step):
    """Query 0 is document 1's text, query 1 its own: right are both once document 1 is left out for query 0."""
    encoder = tiny_encoder()
    model = encoder.open_model().requires_grad_(True)
    ids = encoder.tokenize(documents(5, seed=1), "document").ids
    how = Chunking(encoder.text_tokenizer().pad, 3)
    for masked, accuracy in ((False, 0.5), (True, 1.0)):
        mask = torch.tensor([[False, masked], [False, False]])
        result = step(model, TwoStageBatch([ids[1], ids[1]], ids[:2], ids[2:], mask), 0.05, how)
        assert result.accuracy.item() == accuracy


def test_a_model_that_reads_no_vectors_of_its_context_is_told_how_many_documents_it_has():
    """Its first stage may be trained for all that: nothing reaches it."""
    encoder = tiny_encoder(context_attention="late", context_moments=False, term_statistics=True)
    model, pad = encoder.open_model().double().requires_grad_(True), encoder.text_tokenizer().pad
    ids = encoder.tokenize(documents(8, seed=1), "document").ids
    frequencies = torch.arange(encoder.vocabulary_size) % 3
    batch = TwoStageBatch(ids[:3], ids[3:6], 5, torch.zeros(3, 3, dtype=torch.bool), None, frequencies)
    (loss, found), (expected_loss, expected) = (
        gradients(model, lambda: step(model, batch, 0.05, Chunking(pad, 2)))  # noqa: B023
        for step in (cached_step, direct_step)
    )
    assert loss == pytest.approx(expected_loss, abs=1e-10)
    assert found.keys() == expected.keys()
    assert not any(name.startswith("first_stage.") for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-10, msg=name)


def test_a_context_of_which_every_document_is_dropped_gives_the_first_stage_a_gradient_of_zero():
    model, batch, pad = model_and_batch(context=4)
    batch = replace(batch, dropped=torch.ones(4, dtype=torch.bool))
    for step in (cached_step, direct_step):
        loss, found = gradients(model, lambda: step(model, batch, 0.05, Chunking(pad, 3)))  # noqa: B023
        first = [gradient for name, gradient in found.items() if name.startswith("first_stage.")]
        assert first
        assert all(not gradient.any() for gradient in first)
        assert found["second_stage.null_context"].any()
        assert loss > 0
