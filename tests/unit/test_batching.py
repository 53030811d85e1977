"""Callers who wait share a batch; each gets its own results, in order, and its own errors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cde_retriever.encoder.shared_queries import SharedBatches
from tests.tiny import documents, tiny_encoder


class Doubling:
    """Doubles numbers, keeps what it was called with, and waits at its first call until it is let go on."""

    def __init__(self, most=64):
        self.calls, self.go_on = [], threading.Event()
        self.batches = SharedBatches(self.run, most)

    def run(self, key, items):
        self.calls.append((key, list(items)))
        if len(self.calls) == 1:
            assert self.go_on.wait(10)
        if "bad" in items:
            raise ValueError("bad item")
        return [2 * item for item in items]

    def ask(self, requests):
        """Ask from a thread each, all while the first call runs; return what every thread got."""
        with ThreadPoolExecutor(len(requests) + 1) as pool:
            first = pool.submit(self.batches, "first", [0])
            while not self.calls:
                time.sleep(0.001)
            futures = []
            for number, (key, items) in enumerate(requests, start=1):
                futures.append(pool.submit(self.batches, key, items))
                while len(self.batches._waiting) < number + 1:
                    time.sleep(0.001)
            self.go_on.set()
            assert first.result(10) == [0]
            return [future.exception(10) or future.result() for future in futures]


def test_those_who_wait_run_as_one_batch():
    doubling = Doubling()
    assert doubling.ask([("a", [1, 2]), ("a", [3]), ("a", [4, 5])]) == [[2, 4], [6], [8, 10]]
    assert len(doubling.calls) == 2
    assert sorted(doubling.calls[1][1]) == [1, 2, 3, 4, 5]


def test_keys_are_not_mixed():
    doubling = Doubling()
    assert doubling.ask([("a", [1]), ("b", [2]), ("a", [3])]) == [[2], [4], [6]]
    assert sorted((key, sorted(items)) for key, items in doubling.calls[1:]) == [("a", [1, 3]), ("b", [2])]


def test_a_batch_has_an_end():
    doubling = Doubling(most=2)
    assert doubling.ask([("a", [1]), ("a", [2]), ("a", [3, 4, 5]), ("a", [6])]) == [[2], [4], [6, 8, 10], [12]]
    assert all(len(items) <= 2 or items == [3, 4, 5] for _, items in doubling.calls)


def test_an_error_reaches_its_own_caller_alone():
    doubling = Doubling()
    one, bad, two = doubling.ask([("a", [1]), ("a", ["bad"]), ("a", [2])])
    assert (one, two) == ([2], [4])
    assert isinstance(bad, ValueError)
    assert doubling.batches._waiting == []
    assert doubling.batches("a", [7]) == [14]


def test_a_caller_alone_runs_at_once():
    doubling = Doubling()
    doubling.go_on.set()
    assert doubling.batches("a", [1]) == [2]
    assert doubling.calls == [("a", [1])]


def test_queries_of_many_threads_are_those_of_one(monkeypatch):
    encoder = tiny_encoder()
    encoder.fit_context(documents(20))
    queries = documents(64, seed=9, words=5)
    expected = encoder.encode_queries(queries)
    sizes, embed = [], encoder.backend.embed

    def slow(input_ids, mask, state):
        sizes.append(len(input_ids))
        time.sleep(0.005)
        return embed(input_ids, mask, state)

    monkeypatch.setattr(encoder.backend, "embed", slow)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda query: encoder.encode_queries([query])[0], queries))
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-6)
    assert sum(sizes) == 64
    assert max(sizes) > 4, "callers should have shared batches"


def test_a_new_context_does_not_reach_queries_that_wait():
    encoder = tiny_encoder()
    contexts = [encoder.fit_context(documents(20, seed=seed)) for seed in (1, 2)]
    expected = {}
    for context in contexts:
        encoder.set_context(context)
        expected[context.fingerprint] = encoder.encode_queries(["a query"])[0]
    stop = threading.Event()

    def switch():
        while not stop.is_set():
            for context in contexts:
                encoder.set_context(context)

    with ThreadPoolExecutor(9) as pool:
        switching = pool.submit(switch)
        found = list(pool.map(lambda _: encoder.encode_queries(["a query"])[0], range(200)))
        stop.set()
        switching.result(10)
    for vector in found:
        distances = [np.abs(vector - one).max() for one in expected.values()]
        assert min(distances) < 1e-6, "a vector under neither context"


def test_no_queries_are_no_error():
    encoder = tiny_encoder()
    encoder.fit_context(documents(20))
    assert encoder.encode_queries([]).shape == (0, encoder.dimension)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        encoder.encode_queries(["one"], batch_size=0)
