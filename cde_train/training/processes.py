"""Coordinate the processes of a run, where ``torchrun`` started several, and add up what they found in a step."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from cde_retriever.backends.pytorch import default_device


def is_first_process() -> bool:
    """Whether this is the process that writes the run's files and says what came of it; alone, it is."""
    return int(os.environ.get("RANK", "0")) == 0


def started_processes() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def one_at_a_time() -> Callable[[], AbstractContextManager[None]]:
    """Return what lets the first process go first, where ``torchrun`` started several."""
    if started_processes() == 1:
        return nullcontext
    from datetime import timedelta

    from accelerate import PartialState  # type: ignore[import-untyped]

    alone: Callable[[], AbstractContextManager[None]]
    alone = PartialState(cpu=default_device() != "cuda", timeout=timedelta(days=7)).main_process_first
    return alone


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather(rows: Tensor) -> Tensor:
    """Return all processes' rows, process after process; only this process's own carry a gradient.

    Raises:
        ValueError: if processes hold unequal numbers of rows.
    """
    rank, world = rank_and_world()
    if world == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world)]
    torch.distributed.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    if len({int(size) for size in sizes}) != 1:
        raise ValueError(f"processes hold {[int(s) for s in sizes]} texts; a batch must divide evenly among them")
    parts = [torch.empty_like(rows) for _ in range(world)]
    torch.distributed.all_gather(parts, rows.detach().contiguous())
    parts[rank] = rows
    return torch.cat(parts)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of all processes' tensors, in the place of this one's."""
    if rank_and_world()[1] > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def set_aside_gradients(model: nn.Module) -> dict[nn.Parameter, Tensor | None]:
    """Take the gradients that earlier batches left, so that only this batch's are added up over the processes."""
    before: dict[nn.Parameter, Tensor | None] = {}
    if rank_and_world()[1] > 1:
        for parameter in model.parameters():
            before[parameter], parameter.grad = parameter.grad, None
    return before


def add_over_processes(before: dict[nn.Parameter, Tensor | None]) -> None:
    """Sum the parameters' gradients over the processes, and put back what was set aside.

    A parameter may be reached in one process only, and a sum needs all of them; one that none has reached keeps no
    gradient, as in one process, so that the optimiser passes over it.
    """
    if not before:
        return
    parameters = [parameter for parameter in before if parameter.requires_grad]
    reached = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device, dtype=torch.long)
    for parameter, count in zip(parameters, sum_over_processes(reached).tolist(), strict=True):
        if count:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = sum_over_processes(gradient)
    for parameter, earlier in before.items():
        if earlier is not None:
            parameter.grad = earlier if parameter.grad is None else parameter.grad + earlier
