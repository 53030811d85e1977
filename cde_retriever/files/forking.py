"""Renew in a forked child what belongs to threads that its parent alone has: locks, queues, thread pools."""

import os
import threading
from collections.abc import Callable
from types import TracebackType
from weakref import WeakMethod

_renewals: set["WeakMethod[Callable[[], None]]"] = set()


def renew_in_children(method: Callable[[], None]) -> None:
    """Have a bound method called in each forked child before anything else runs there, while its object lives."""
    _renewals.add(WeakMethod(method, _renewals.discard))


def _renew() -> None:
    for reference in list(_renewals):
        method = reference()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):  # where processes can be forked at all
    os.register_at_fork(after_in_child=_renew)


class ThreadLock:
    """A re-entrant lock among threads, which a forked child finds free whoever in the parent held it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_in_children(self._free)

    def __enter__(self) -> None:
        """Wait until no other thread holds the lock."""
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let another thread have it."""
        self._lock.release()

    def _free(self) -> None:
        if self._lock.acquire(blocking=False):  # free, or held by the thread that forked, which holds it on
            self._lock.release()
        else:
            self._lock = threading.RLock()
