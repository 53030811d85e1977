"""Callers of several threads who want the same thing done: what they ask for at once runs as one batch."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Request(Generic[Item, Result]):
    key: Hashable
    items: list[Item]
    results: list[Result] | None = field(default=None)


class SharedBatches(Generic[Item, Result]):
    """Runs a function over the items of all callers that wait, by one of them (flat combining, Hendler et al. 2010).

    A caller puts its items down and takes the lock. Whoever gets it first runs everything that was put down under the
    same key by then; the others find their results there when the lock comes to them. There is no thread of its own, no
    time that anyone waits for company, and a caller alone pays nothing.

    Args:
        run: Gets a key and items, gives a result for each, in order.
        lock: Held while `run` runs; reentrant, if a caller may hold it already.
        most: Most items of several callers run together; a caller with more runs alone.
    """

    def __init__(
        self,
        run: Callable[[Hashable, list[Item]], list[Result]],
        lock: "threading.RLock | threading.Lock",
        most: int = 64,
    ) -> None:
        self._run, self._lock, self._most = run, lock, most
        self._waiting: list[_Request[Item, Result]] = []
        self._guard = threading.Lock()

    def __call__(self, key: Hashable, items: list[Item]) -> list[Result]:
        """Return the results of one's items; raises what `run` raises for them, never what it raises for others'."""
        request = _Request[Item, Result](key, items)
        with self._guard:
            self._waiting.append(request)
        try:
            with self._lock:
                if request.results is None:
                    self._lead(request)
        finally:
            with self._guard:
                if request in self._waiting:
                    self._waiting.remove(request)
        assert request.results is not None
        return request.results

    def _lead(self, own: _Request[Item, Result]) -> None:
        """Run one's own request and as many others of the same key as fit, in the order they came."""
        taken, count = [own], len(own.items)
        with self._guard:
            for request in self._waiting:
                if request is not own and request.key == own.key and count + len(request.items) <= self._most:
                    taken.append(request)
                    count += len(request.items)
        try:
            results = self._run(own.key, [item for request in taken for item in request.items])
        except Exception:
            if len(taken) == 1:
                raise
            taken, results = [own], self._run(own.key, own.items)  # the others run theirs when the lock comes to them
        with self._guard:
            self._waiting = [request for request in self._waiting if request not in taken]
        for request in taken:
            request.results, results = results[: len(request.items)], results[len(request.items) :]
