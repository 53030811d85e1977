"""Coordinate the processes of a run, where ``torchrun`` started several."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from cde_retriever.backends.pytorch import default_device


def is_first_process() -> bool:
    """Whether this is the process that writes the run's files and says what came of it; alone, it is."""
    return int(os.environ.get("RANK", "0")) == 0


def one_at_a_time() -> Callable[[], AbstractContextManager[None]]:
    """Return what lets the first process go first, where ``torchrun`` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext
    from datetime import timedelta

    from accelerate import PartialState  # type: ignore[import-untyped]

    alone: Callable[[], AbstractContextManager[None]]
    alone = PartialState(cpu=default_device() != "cuda", timeout=timedelta(days=7)).main_process_first
    return alone
