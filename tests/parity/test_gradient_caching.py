"""Two-stage gradient caching against plain autograd: the loss and every parameter's gradient, in float64."""

import contextlib
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.direct_step import direct_step
from cde_train.training.gradient_caching import Chunking, StepResult, TwoStageBatch, cached_step
from tests.tiny import FAMILIES, HEADED, documents, tiny_encoder

QUERIES, CONTEXT = 7, 9
TEMPERATURE = 0.05


def model_and_batch(
    family="bert", *, layout="cached", negatives=0, dropped=False, tied=False, tokens=True, context=CONTEXT
):
    """Return a float64 model with random weights and a batch of texts of unequal lengths, one false negative in it."""
    settings = HEADED if layout == "head" else {"context_attention": layout, "share_word_embeddings": tied}
    encoder = tiny_encoder(family, **settings)
    model = encoder.open_model().double()
    model.requires_grad_(True)
    queries = encoder.tokenize([text[:20] for text in documents(QUERIES, seed=1)], "query").ids
    texts = encoder.tokenize(documents(QUERIES * (1 + negatives), seed=2, words=20), "document").ids
    ids = encoder.tokenize(documents(context, seed=3), "document").ids if context else []
    if not tokens:
        with torch.no_grad():
            ids = model.first_stage(*map(torch.as_tensor, encoder.text_tokenizer().pad(ids)))
    mask = torch.zeros(QUERIES, len(texts), dtype=torch.bool)
    mask[1, 2] = mask[3, 3] = True  # the second is a positive, which stays in the denominator whatever the mask says
    drops = torch.arange(context) % 3 == 1 if dropped else None
    return model, TwoStageBatch(queries, texts, ids, mask, drops), encoder.text_tokenizer().pad


def gradients(model, step):
    """Run a step on cleared gradients; return its loss and every gradient by name, those not reached left out."""
    model.zero_grad(set_to_none=True)
    result = step()
    return result.loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(got, expected, tolerance=1e-10):
    assert got[0] == pytest.approx(expected[0], abs=tolerance)
    assert got[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (got[1][name] - gradient).abs().max() <= tolerance * max(1.0, gradient.abs().max().item()), name


def both(model, batch, pad, size):
    cached = gradients(model, lambda: cached_step(model, batch, TEMPERATURE, Chunking(pad, size)))
    return cached, gradients(model, lambda: direct_step(model, batch, TEMPERATURE, Chunking(pad, size)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("layout", ["cached", "joint"])
def test_any_chunk_size(layout, size):
    model, batch, pad = model_and_batch(layout=layout)
    cached, direct = both(model, batch, pad, size)
    assert_equal_gradients(cached, direct)
    untouched = {n for n, _ in model.named_parameters()} - direct[1].keys()
    assert untouched == {"second_stage.null_context"}  # no document was dropped
    flat = {name for name, gradient in direct[1].items() if gradient.abs().max() < 1e-8}
    assert all(name.endswith("key.bias") for name in flat), "only a bias of all keys, which softmax does not see"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_beneath_a_corpus_head_gets_its_plain_gradient(family):
    """The head is outside of what is trained: by hand, InfoNCE of mean-pooled unit vectors, whatever the context."""
    model, batch, pad = model_and_batch(family, layout="head")
    batch = replace(batch, context=len(batch.context))  # such a model is told the number of documents alone
    cached, direct = both(model, batch, pad, 2)
    assert_equal_gradients(cached, direct)

    def by_hand():
        vectors = []
        for ids in (*batch.queries, *batch.documents):  # one by one, so that nothing is padded
            hidden = model.second_stage.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0]
            vectors.append(hidden.mean(dim=0) / hidden.mean(dim=0).norm())
        scores = torch.stack(vectors[:QUERIES]) @ torch.stack(vectors[QUERIES:]).T / TEMPERATURE
        scores[1, 2] = -torch.inf
        loss = (scores.logsumexp(dim=1) - scores.diagonal()).mean()
        loss.backward()
        return StepResult(loss.detach(), loss)

    assert_equal_gradients(cached, gradients(model, by_hand))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "case",
    [
        {"negatives": 2},
        {"dropped": True},
        {"tied": True},
        {"tokens": False},
        {"context": 0},
        {"negatives": 1, "dropped": True, "tied": True, "layout": "joint"},
    ],
    ids=["hard negatives", "context dropout", "tied embeddings", "given vectors", "null context", "all, joint"],
)
def test_every_kind_of_batch(family, case):
    model, batch, pad = model_and_batch(family, **case)
    cached, direct = both(model, batch, pad, 3)
    assert_equal_gradients(cached, direct)
    reached_first_stage = any(name.startswith("first_stage") for name in direct[1])
    assert reached_first_stage == (case.get("tokens", True) and case.get("context", 1) > 0)


def test_frozen_first_stage_and_frozen_words():
    model, batch, pad = model_and_batch(tied=True)
    model.first_stage.requires_grad_(False)
    cached, direct = both(model, batch, pad, 2)
    assert_equal_gradients(cached, direct)
    assert not any("first_stage" in name or "word_embeddings" in name for name in cached[1])


def test_gradients_are_added_to_those_already_there():
    model, batch, pad = model_and_batch()
    cached, _ = both(model, batch, pad, 3)
    model.zero_grad(set_to_none=True)
    for _ in range(2):
        cached_step(model, batch, TEMPERATURE, Chunking(pad, 3))
    for name, parameter in model.named_parameters():
        if name in cached[1]:
            torch.testing.assert_close(parameter.grad, 2 * cached[1][name], rtol=1e-10, atol=1e-12)


def test_negative_control_losing_one_first_stage_chunk_is_seen(monkeypatch):
    """The defect of the reference under several processes: later context chunks get no gradient."""
    from cde_train.training import gradient_caching

    model, batch, pad = model_and_batch()
    direct = gradients(model, lambda: direct_step(model, batch, TEMPERATURE, Chunking(pad, 2)))
    whole = gradient_caching._first_stage_share

    def cut(model, context, how):
        yield from list(whole(model, context, how))[: None if not torch.is_grad_enabled() else 2]

    monkeypatch.setattr(gradient_caching, "_first_stage_share", cut)
    cached = gradients(model, lambda: cached_step(model, batch, TEMPERATURE, Chunking(pad, 2)))
    assert cached[0] == pytest.approx(direct[0], abs=1e-10)  # the loss shows nothing
    with pytest.raises(AssertionError, match="first_stage"):
        assert_equal_gradients(cached, direct)


@pytest.mark.parametrize("wrong", ["temperature", "mask"])
def test_negative_control_another_loss_is_seen(wrong):
    model, batch, pad = model_and_batch()
    direct = gradients(model, lambda: direct_step(model, batch, TEMPERATURE, Chunking(pad, 2)))
    other = (
        batch
        if wrong == "temperature"
        else TwoStageBatch(
            batch.queries, batch.documents, batch.context, torch.zeros_like(batch.false_negatives), batch.dropped
        )
    )
    temperature = TEMPERATURE * (1.001 if wrong == "temperature" else 1)
    cached = gradients(model, lambda: cached_step(model, other, temperature, Chunking(pad, 2)))
    with pytest.raises(AssertionError):
        assert_equal_gradients(cached, direct)


@pytest.mark.parametrize("layout", ["cached", "joint"])
def test_bf16_autocast(layout):
    """bfloat16 keeps 8 bits: chunks pad differently, so gradients agree to a few per cent of the largest."""
    model, batch, pad = model_and_batch(layout=layout, negatives=1)
    model.float()
    how = Chunking(pad, 3, partial(torch.autocast, "cpu", torch.bfloat16))
    cached = gradients(model, lambda: cached_step(model, batch, TEMPERATURE, how))
    direct = gradients(model, lambda: direct_step(model, batch, TEMPERATURE, how))
    exact = gradients(model, lambda: direct_step(model, batch, TEMPERATURE, Chunking(pad, 3)))
    assert cached[0] == pytest.approx(direct[0], abs=0.05)
    assert cached[1].keys() == direct[1].keys()
    for got, other in ((cached[1], direct[1]), (cached[1], exact[1])):
        a = torch.cat([got[name].flatten() for name in other])
        b = torch.cat([other[name].flatten() for name in other])
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99
        assert (a - b).norm() / b.norm() < 0.15


def test_gradient_checkpointing_changes_nothing():
    model, batch, pad = model_and_batch()
    cached, _ = both(model, batch, pad, 3)
    for backbone in (model.first_stage.backbone, model.second_stage.backbone):
        backbone.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    again = gradients(model, lambda: cached_step(model, batch, TEMPERATURE, Chunking(pad, 3)))
    assert_equal_gradients(again, cached)


def split(rows, rank, world):
    size = len(rows) // world
    return rows[rank * size : (rank + 1) * size]


def share(batch, rank, world):
    """Return one process's part: its queries, their positives, their hard negatives."""
    count = len(batch.queries)
    parts = [split(part, rank, world) for part in (batch.documents[:count], batch.documents[count:])]
    return TwoStageBatch(
        split(batch.queries, rank, world), [*parts[0], *parts[1]], batch.context, batch.false_negatives, batch.dropped
    )


def even(batch, count=6):
    """Return the batch with as many pairs as two and three processes can share."""
    documents_ = [*batch.documents[:count], *batch.documents[QUERIES : QUERIES + count]]
    columns = [*range(count), *range(QUERIES, QUERIES + count)]
    return TwoStageBatch(
        batch.queries[:count], documents_, batch.context, batch.false_negatives[:count][:, columns], batch.dropped
    )


CASE = {"negatives": 1, "dropped": True, "tied": True, "context": 18}
CHUNK = 2  # nine context documents a process: five first-stage chunks


@pytest.mark.parametrize(("layout", "processes"), [("cached", 2), ("joint", 2), ("cached", 3)])
def test_several_processes(tmp_path, layout, processes):
    """Gloo processes with five first-stage chunks each (three for three) equal plain autograd in one process."""
    model, batch, pad = model_and_batch(layout=layout, **CASE)
    expected = gradients(model, lambda: direct_step(model, even(batch), TEMPERATURE, Chunking(pad, CHUNK)))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    base = os.environ | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    base["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-m", "tests.parity.test_gradient_caching", str(tmp_path), layout]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, env=base | {"RANK": str(rank)})) for rank in range(processes)
        ]
        assert [process.wait(600) for process in started] == [0] * processes
    for rank in range(processes):
        found = load_file(tmp_path / f"{rank}.safetensors")
        loss = found.pop("loss").item()
        assert_equal_gradients((loss, found), expected)


def worker(folder, layout):
    """Run one process's share of the step and write what it found."""
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model, batch, pad = model_and_batch(layout=layout, **CASE)
    local = share(even(batch), rank, world)
    loss, found = gradients(model, lambda: cached_step(model, local, TEMPERATURE, Chunking(pad, CHUNK)))
    save_file({"loss": torch.tensor([loss], dtype=torch.float64), **found}, f"{folder}/{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    worker(*sys.argv[1:])
