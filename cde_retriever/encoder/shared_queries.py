"""Run as one batch what callers of several threads ask for at once."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cde_retriever.files.forking import renew_in_children

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Request(Generic[Item, Result]):
    key: Hashable
    items: list[Item]
    results: list[Result] | None = None
    woken: threading.Event = field(default_factory=threading.Event)  # has its results, or is to lead


class SharedBatches(Generic[Item, Result]):
    """Runs a function over the items of all callers that wait, by one of them (flat combining, Hendler et al. 2010).

    A caller who finds nobody at work leads: it runs its own items and everything that was put down under the same key
    by then, wakes those whose results it has, and leaves the lead to one of those who came meanwhile. There is no
    thread of its own, no time that anyone waits for company, and a caller alone pays nothing.

    Args:
        run: Gets a key and items, gives a result for each, in order. One call runs at a time. It may not wait for
            anything that a caller holds.
        most: Most items of several callers run together; a caller with more runs alone.
    """

    def __init__(self, run: Callable[[Hashable, list[Item]], list[Result]], most: int = 64) -> None:
        self._run, self._most = run, most
        self._begin()
        renew_in_children(self._begin)

    def _begin(self) -> None:
        """Start with nobody waiting."""
        self._waiting: list[_Request[Item, Result]] = []
        self._leader: _Request[Item, Result] | None = None
        self._guard = threading.Lock()

    def __call__(self, key: Hashable, items: list[Item]) -> list[Result]:
        """Return the results of one's items; raises what `run` raises for them, never what it raises for others'."""
        request: _Request[Item, Result] = _Request(key, items)
        try:
            with self._guard:
                self._waiting.append(request)
                if self._leader is None:
                    self._appoint(request)
            request.woken.wait()
            if request.results is None:
                self._lead(request)
        finally:  # an interrupted caller leaves nothing behind, and the lead to another
            with self._guard:
                if request in self._waiting:
                    self._waiting.remove(request)
                if self._leader is request:
                    self._leader = None
                    if self._waiting:
                        self._appoint(self._waiting[0])
        assert request.results is not None
        return request.results

    def _appoint(self, request: _Request[Item, Result]) -> None:
        self._leader = request
        request.woken.set()

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
            taken, results = [own], self._run(own.key, own.items)  # each of the others leads in its turn
        with self._guard:
            self._waiting = [request for request in self._waiting if request not in taken]
        for request in taken:
            request.results, results = results[: len(request.items)], results[len(request.items) :]
            request.woken.set()
