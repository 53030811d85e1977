"""Linear algebra at one thread while a query is fitted or searched for: within, after, and with several threads."""

import threading

import pytest
from threadpoolctl import threadpool_limits

from cde_retriever.context import blas_threads, fitted_queries
from cde_retriever.context.blas_threads import one_blas_thread
from cde_retriever.search import parts_index
from cde_retriever.search.parts_index import PartsIndex
from tests.tiny import documents, headed_encoder

TEXTS = documents(30, seed=1)


def counts():
    """Return how many threads NumPy and SciPy have; other libraries bring a BLAS of their own."""
    return {pool["num_threads"] for pool in blas_threads._POOLS.info() if pool["user_api"] == "blas"}


def set_counts(count):
    """Set how many threads they have, from a thread that ends: threadpoolctl heeds no other thread while it lives."""
    setter = threading.Thread(target=threadpool_limits, kwargs={"limits": count, "user_api": "blas"})
    setter.start()
    setter.join()


@pytest.fixture(autouse=True)
def three_threads():
    before = max(counts())
    set_counts(3)
    yield
    set_counts(before)


def test_it_is_one_within_and_what_it_was_after_also_after_an_error():
    with one_blas_thread():
        assert counts() == {1}
        with one_blas_thread():
            assert counts() == {1}
        assert counts() == {1}
    assert counts() == {3}
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert counts() == {3}


def test_who_leaves_takes_nothing_from_who_came_first():
    def come_and_go():
        for _ in range(50):
            with one_blas_thread():
                seen.append(counts())

    seen = []
    with one_blas_thread():
        others = [threading.Thread(target=come_and_go) for _ in range(4)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        assert counts() == {1}
    assert seen == [{1}] * 200
    assert counts() == {3}


def test_who_leaves_after_the_first_does_not_leave_them_at_one():
    def come_second():
        with one_blas_thread():
            came.set()
            left.wait()

    came, left = threading.Event(), threading.Event()
    second = threading.Thread(target=come_second)
    with one_blas_thread():
        second.start()
        came.wait()
    left.set()
    second.join()
    assert counts() == {3}


def test_queries_are_fitted_and_searched_for_so(monkeypatch):
    seen = []

    def watched(function):
        def watch(*args):
            seen.append((function.__name__, counts()))
            return function(*args)

        return watch

    monkeypatch.setattr(fitted_queries.FittedQueries, "_fit", watched(fitted_queries.FittedQueries._fit))
    monkeypatch.setattr(parts_index.Segment, "words", watched(parts_index.Segment.words))
    encoder = headed_encoder()
    context = encoder.fit_context(TEXTS)
    encoder.encode_queries(["koron"])
    index = PartsIndex(context.fingerprint)
    index.add(list(map(str, range(30))), encoder.encode_documents(TEXTS, parts="both"))
    asked = encoder.encode_queries(["koron"], parts="both")
    index.search(asked, 3)
    assert seen == [("_fit", {1}), ("words", {1})]
    monkeypatch.setattr(parts_index, "FEW", 29)
    index.search(asked, 3)
    assert seen[-1] == ("words", {3})  # many documents are searched by all
    assert counts() == {3}
