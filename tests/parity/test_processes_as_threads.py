"""Several processes of a cached step, played by threads of one: what each finds equals plain autograd's gradient."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from benchmarks.direct_step import direct_step
from cde_train.training.gradient_caching import Chunking, cached_step
from tests.parity.test_gradient_caching import (
    CASE,
    TEMPERATURE,
    assert_equal_gradients,
    even,
    gradients,
    model_and_batch,
    share,
)


class Meeting:
    """Stands for `torch.distributed` among threads: calls meet in the order in which they are made."""

    def __init__(self, world):
        self.world, self.own, self.brought = world, threading.local(), [None] * world
        self.barrier = threading.Barrier(world, timeout=60)

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def get_rank(self):
        return self.own.rank

    def get_world_size(self):
        return self.world

    def exchange(self, tensor):
        self.brought[self.own.rank] = tensor.detach().clone()
        self.barrier.wait()
        everything = list(self.brought)
        self.barrier.wait()
        return everything

    def all_gather(self, parts, tensor):
        for part, theirs in zip(parts, self.exchange(tensor), strict=True):
            part.copy_(theirs)

    def all_reduce(self, tensor):
        tensor.copy_(torch.stack(self.exchange(tensor)).sum(dim=0))


@pytest.fixture
def play(monkeypatch):
    """Return what runs a function of the rank in a thread for each of so many processes, and returns the results."""

    def run(world, work):
        meeting = Meeting(world)
        for name in ("is_available", "is_initialized", "get_rank", "get_world_size", "all_gather", "all_reduce"):
            monkeypatch.setattr(torch.distributed, name, getattr(meeting, name))

        def begin(rank):
            meeting.own.rank = rank
            try:
                return work(rank)
            except BaseException:
                meeting.barrier.abort()
                raise

        with ThreadPoolExecutor(world) as pool:
            return list(pool.map(begin, range(world)))

    return run


@pytest.mark.parametrize(("world", "documents"), [(2, 18), (3, 18), (2, 1)])
def test_every_process_has_the_gradient_of_the_whole_batch(play, world, documents):
    """Of a context of one document, a process that has no share of it gets the first stage's gradient all the same."""
    case = CASE | {"context": documents, "dropped": documents > 1}
    (model, batch, pad), *copies = (model_and_batch(**case) for _ in range(world + 1))
    expected = gradients(model, lambda: direct_step(model, even(batch), TEMPERATURE, Chunking(pad, 2)))
    assert any(name.startswith("first_stage") for name in expected[1])

    def process(rank):
        own = copies[rank][0]
        return gradients(own, lambda: cached_step(own, share(even(batch), rank, world), TEMPERATURE, Chunking(pad, 2)))

    for found in play(world, process):
        assert_equal_gradients(found, expected)


def test_earlier_gradients_are_added_once_and_what_nothing_reached_keeps_none(play):
    (model, batch, pad), *copies = (model_and_batch(negatives=1) for _ in range(3))
    batch = even(batch, 4)
    _, expected = gradients(model, lambda: direct_step(model, batch, TEMPERATURE, Chunking(pad, 2)))

    def process(rank):
        own = copies[rank][0]
        for parameter in (own.second_stage.gate, own.second_stage.prompt):
            parameter.grad = torch.full_like(parameter, 0.5 + rank)
        own.first_stage.requires_grad_(False)
        cached_step(own, share(batch, rank, 2), TEMPERATURE, Chunking(pad, 2))
        return {name: parameter.grad for name, parameter in own.named_parameters()}

    for rank, found in enumerate(play(2, process)):
        for name, gradient in found.items():
            if name.startswith("first_stage.") or name == "second_stage.null_context":
                assert gradient is None, name
                continue
            earlier = 0.5 + rank if name in ("second_stage.gate", "second_stage.prompt") else 0.0
            torch.testing.assert_close(gradient, expected[name] + earlier, rtol=1e-9, atol=1e-9, msg=name)


def test_the_loss_and_accuracy_are_those_of_the_whole_batch(play):
    (model, batch, pad), *copies = (model_and_batch(negatives=1) for _ in range(4))
    batch = even(batch)
    batch = replace(batch, queries=[*batch.documents[:3], *batch.queries[3:]])
    whole = direct_step(model, batch, TEMPERATURE, Chunking(pad, 2))
    found = play(3, lambda rank: cached_step(copies[rank][0], share(batch, rank, 3), TEMPERATURE, Chunking(pad, 2)))
    assert 0 < whole.accuracy.item() < 1
    for result in found:
        assert result.loss.item() == pytest.approx(whole.loss.item(), abs=1e-10)
        assert result.accuracy.item() == pytest.approx(whole.accuracy.item())


def test_processes_that_hold_unequal_numbers_of_texts_say_so(play):
    (_, batch, pad), *copies = (model_and_batch(negatives=1) for _ in range(3))
    batch = even(batch)
    parts = [share(batch, 0, 2), share(batch, 0, 3)]

    def process(rank):
        with pytest.raises(ValueError, match=r"processes hold \[3, 2\] texts; a batch must divide evenly"):
            cached_step(copies[rank][0], parts[rank], TEMPERATURE, Chunking(pad, 2))

    assert play(2, process) == [None, None]
