"""Renew in a forked child what belongs to threads that its parent alone has: locks, queues, thread pools.

A fork waits, for a short time, until no other thread holds a `ThreadLock`. What runs under one is computation by
libraries with locks of their own, which a child could never free: oneDNN, for one, locks its cache of kernels.
"""

import os
import threading
import time
from collections.abc import Callable
from weakref import WeakMethod, WeakSet

SECONDS_BEFORE_FORK = 5.0
"""How long a fork waits for other threads at most; one that embeds keeps its lock for a batch."""

_renewals: set["WeakMethod[Callable[[], None]]"] = set()
_locks: "WeakSet[ThreadLock]" = WeakSet()
_held = threading.local()  # by the thread that forks, while it forks


def renew_in_children(method: Callable[[], None]) -> None:
    """Have a bound method called in each forked child before anything else runs there, while its object lives."""
    _renewals.add(WeakMethod(method, _renewals.discard))


def _hold() -> None:
    end = time.monotonic() + SECONDS_BEFORE_FORK
    # In one order, so that two threads that fork at once do not wait for each other.
    waited_for = [(lock, lock._lock) for lock in sorted(_locks, key=id)]
    _held.locks = [pair for pair in waited_for if pair[1].acquire(timeout=max(0.0, end - time.monotonic()))]


def _release() -> None:
    for _, lock in _held.__dict__.pop("locks", []):
        lock.release()


def _renew() -> None:
    _release()
    for reference in list(_renewals):
        method = reference()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):  # where processes can be forked at all
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_renew)


class ThreadLock:
    """A re-entrant lock among threads, which a forked child finds free whoever in the parent held it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)
        renew_in_children(self._free)

    def __enter__(self) -> None:
        """Wait until no other thread holds the lock."""
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Let another thread have it."""
        self._lock.release()

    def _free(self) -> None:
        if self._lock.acquire(blocking=False):  # free, or held by the thread that forked, which holds it on
            self._lock.release()
        else:
            self._lock = threading.RLock()
