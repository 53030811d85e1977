"""Show how far a long task is: a bar on a terminal, a line every ten seconds in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[T], *, label: str = "", unit: str = "it", show: bool = True) -> "Progress[T]":
    """Iterate over items and show how far that is, on stderr.

    Args:
        items: What to iterate over; how many there are is shown if they say it.
        label: What is being done, put before the figures.
        unit: What is counted, in the singular.
        show: Whether to show anything.
    """
    total = None
    with suppress(TypeError):
        total = len(items)  # type: ignore[arg-type]
    return Progress(items, _display(total, 0, label, unit) if show else None)


def counter(*, total: int | None, initial: int = 0, label: str, unit: str, show: bool = True) -> "Progress[Any]":
    """Return what counts with `Progress.update`; otherwise as `progress`.

    Args:
        total: How many there are; None if that is not known.
        initial: How many were done before.
        label: What is being done.
        unit: What is counted.
        show: Whether to show anything.
    """
    return Progress((), _display(total, initial, label, unit) if show else None)


def _display(total: int | None, initial: int, label: str, unit: str) -> Any:
    if _is_interactive():
        return tqdm(total=total, initial=initial, desc=label, unit=unit)
    return _Lines(total, initial, label, unit)


class Progress(Generic[T]):
    """Count what is done; a context manager that can be iterated over. Made by `progress` and `counter`."""

    def __init__(self, items: Iterable[T], display: Any) -> None:
        self._items, self._display = items, display

    def update(self, count: int = 1) -> None:
        """Count so many more as done."""
        if self._display is not None:
            self._display.update(count)

    def show(self, figures: str) -> None:
        """Show figures of the task beside how far it is, such as ``"loss=0.5"``."""
        if self._display is not None:
            self._display.set_postfix_str(figures, refresh=False)

    def close(self) -> None:
        """Show the last state."""
        if self._display is not None:
            self._display.close()

    def __iter__(self) -> Iterator[T]:
        """Yield the items, and count each when the next is asked for."""
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lines:
    """Write a line to stderr every `SECONDS_BETWEEN_LINES`, and one at the end."""

    def __init__(self, total: int | None, initial: int, label: str, unit: str) -> None:
        self.total, self.initial, self.done, self.label, self.unit = total, initial, initial, label, unit
        self.began = self.written = time.monotonic()
        self.closed = False
        self.figures: str | None = None

    def set_postfix_str(self, figures: str, refresh: bool = False) -> None:  # noqa: ARG002 - as tqdm's
        self.figures = figures

    def update(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.written >= SECONDS_BETWEEN_LINES:
            self._write()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._write()

    def _write(self) -> None:
        self.written = time.monotonic()
        line = tqdm.format_meter(
            self.done,
            self.total,  # type: ignore[arg-type]  # None where it is not known
            self.written - self.began,
            ncols=0,  # figures without a bar
            prefix=self.label,
            unit=f" {self.unit}",
            initial=self.initial,
            postfix=self.figures,
        )
        with suppress(AttributeError, OSError, ValueError):  # a missing or closed stderr must not end the task
            sys.stderr.write(line.strip() + "\n")
            sys.stderr.flush()


def _is_interactive() -> bool:
    """Tell whether a bar can be redrawn in place: on a terminal or in a notebook."""
    if "ipykernel" in sys.modules:
        return True
    with suppress(ValueError):  # stderr is closed
        return bool(sys.stderr and sys.stderr.isatty())
    return False
