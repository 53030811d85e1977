"""Show where a run's time went: its steps, the parts of a training step, pairs a second, and what it ran on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cde_retriever.pages.page import Page
from cde_retriever.pages.plots import Table
from cde_train.run.sections import PhaseConfig
from cde_train.training.laps import SECONDS

LOG = Sequence[Mapping[str, Any]]


def write_step_timings(page: Page, phase: PhaseConfig, log: LOG, batches_an_epoch: int | None) -> None:
    """Write how long the parts of a phase's training steps took, from what was logged; nothing if nothing was.

    Args:
        page: Where to.
        phase: The phase.
        log: The entries of its log.
        batches_an_epoch: How many steps an epoch has, if that is known.
    """
    entries = [entry for entry in log if any(key.startswith(SECONDS) for key in entry)]
    if not entries:
        return
    parts = dict.fromkeys(key for entry in entries for key in entry if key.startswith(SECONDS))
    means = {key: float(np.mean([entry.get(key, 0.0) for entry in entries])) for key in parts}
    step = sum(means.values())
    epoch = (
        "" if batches_an_epoch is None else f", an epoch of {batches_an_epoch} steps {step * batches_an_epoch:.0f} s"
    )
    page.text(f"{phase.batch_size / step:.1f} pairs a second: a step of {phase.batch_size} takes {step:.2f} s{epoch}.")
    rows = [
        (key.removeprefix(SECONDS).replace("_", " "), round(seconds, 3), round(100 * seconds / step))
        for key, seconds in means.items()
    ]
    page.table(
        Table(("part", "seconds a step", "%"), rows),
        f"Where a step of {phase.name} spends its time, measuring included",
    )


def write_run_timings(page: Page, seconds: Mapping[str, float]) -> None:
    """Write how long each step of a run took."""
    if seconds:
        page.table(Table(("step", "seconds"), list(seconds.items())), "Time of each step")


def write_environments(page: Page, environments: Sequence[Mapping[str, str]]) -> None:
    """Write what a run ran on, a column for each change."""
    if environments:
        page.heading("Environment")
        names = dict.fromkeys(name for one in environments for name in one)
        headings = ("", *(["at first", *["then"] * (len(environments) - 1)]))
        rows = [(name, *(one.get(name, "-") for one in environments)) for name in names]
        page.table(Table(headings, rows), "What it ran on")
