"""Show how far a long task is: a bar on a terminal, a line every ten seconds in a log file."""

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[T], *, label: str = "", unit: str = "it", show: bool = True) -> "plain_tqdm[T]":
    """Iterate over items and show how far that is, on stderr.

    Args:
        items: What to iterate over; how many there are is shown if they say it.
        label: What is being done, put before the figures.
        unit: What is counted, in the singular.
        show: Whether to show anything.
    """
    return _display(label, unit, show, iterable=items)


def counter(*, total: int | None, initial: int = 0, label: str, unit: str, show: bool = True) -> "plain_tqdm[Any]":
    """Return what counts with ``update(count)``; otherwise as `progress`.

    Args:
        total: How many there are; None if that is not known.
        initial: How many were done before.
        label: What is being done.
        unit: What is counted.
        show: Whether to show anything.
    """
    return _display(label, unit, show, total=total, initial=initial)


def close_all() -> None:
    """Close whatever is shown, so that what is said next has a line of its own."""
    for shown in (*_Bar._instances, *_Lines._instances):
        shown.close()


def _display(label: str, unit: str, show: bool, **items: Any) -> "plain_tqdm[Any]":
    if show and _is_interactive():
        return _Bar(desc=label, unit=unit, **items)
    lines = _Lines(
        desc=label,
        unit=f" {unit}",
        file=_Log(),
        ncols=0,  # figures without a bar
        position=0,  # no steps from line to line
        mininterval=SECONDS_BETWEEN_LINES,
        miniters=1,
        smoothing=0,
        delay=1e-3,  # no line at the beginning
        disable=not show,
        **items,
    )
    lines.delay = 0  # but one at the end, however soon that comes
    return lines


class _Bar(tqdm):  # type: ignore[type-arg]
    _instances: ClassVar["WeakSet[_Bar]"] = WeakSet()  # of others' bars, other locks keep the order


class _Lines(plain_tqdm):  # type: ignore[type-arg]
    _instances: ClassVar["WeakSet[_Lines]"] = WeakSet()
    monitor_interval = 0  # no thread of its own
    _written: int | float | None = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless the last one had the same count, as at the end of what took long."""
        if self.n != self._written:
            self._written = self.n
            super().display(msg, pos)


def _renew_locks() -> None:
    """Give our bars locks of this process alone.

    tqdm shares one among forked processes: a child that is killed while it holds it stops every bar of its parent.
    """
    for kind in (_Bar, _Lines):
        kind.set_lock(threading.RLock())


_renew_locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class _Log:
    """Write what would redraw a line of a terminal as lines of a log."""

    def write(self, text: str) -> None:
        with suppress(AttributeError, OSError, ValueError):  # a missing or closed stderr must not end the task
            sys.stderr.write(text.strip() + "\n" if text.strip() else "")

    def flush(self) -> None:
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()


def _is_interactive() -> bool:
    """Tell whether a bar can be redrawn in place: on a terminal or in a notebook."""
    if "ipykernel" in sys.modules:
        return True
    with suppress(ValueError):  # stderr is closed
        return bool(sys.stderr and sys.stderr.isatty())
    return False
