"""The false-negative filter: vectors so plain that every score can be read off."""

import json

import numpy as np
import pytest

from cde_train.batching.false_negatives import (
    FilterConfig,
    FilterCounts,
    duplicate_mask,
    false_negative_mask,
    report_batches,
)
from cde_train.data.pairs import TrainingPair

# Three queries, each an axis. Documents: three positives, then two hard negatives. Scores are the documents' numbers:
#
#            positives          hard negatives
#          d0    d1    d2    |  d3    d4
#   q0   [0.6]   0.8   0.0   |  0.6   0.5     d1 is nearer than d0, d3 is as near
#   q1    0.5   [0.4]  0.3   |  0.0   0.3     d0 is nearer than d1
#   q2    0.0    0.1  [0.9]  |  0.8   0.8     nothing is
QUERIES = np.eye(3, dtype=np.float32)
SCORES = [[0.6, 0.8, 0.0, 0.6, 0.5], [0.5, 0.4, 0.3, 0.0, 0.3], [0.0, 0.1, 0.9, 0.8, 0.8]]
DOCUMENTS = np.array(SCORES, dtype=np.float32).T.copy()


def places(mask):
    return {(int(i), int(j)) for i, j in np.argwhere(mask)}


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0.0, {(0, 1), (0, 3), (1, 0)}),
        (0.05, {(0, 1), (1, 0)}),  # equal is no longer enough
        (0.1, {(0, 1), (1, 0)}),  # 0.5 = 0.4 + 0.1: at the threshold is out, whatever rounding does
        (0.11, {(0, 1)}),
        (0.21, set()),
        (-0.1, {(0, 1), (0, 3), (0, 4), (1, 0), (1, 2), (1, 4), (2, 3), (2, 4)}),
        (-2.0, {(i, j) for i in range(3) for j in range(5) if i != j}),  # everything but the positives
    ],
)
def test_three_queries_and_five_documents(margin, expected):
    mask = false_negative_mask(QUERIES, DOCUMENTS, margin)
    assert mask.shape == (3, 5)
    assert mask.dtype == np.bool_
    assert places(mask) == expected


def test_copies_fall_out_whatever_float32_makes_of_their_scores():
    """Products are summed in another order in other columns of a matrix, so equal vectors may score unequally."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 771)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rng.normal(size=(33, 771)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    mask = false_negative_mask(queries, np.concatenate([rows[:33], rows[:33]]), 0.0)
    assert mask[np.arange(33), np.arange(33) + 33].all()
    assert not mask[np.arange(33), np.arange(33)].any()


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), 2.5])
def test_margins_out_of_range_are_refused(margin):
    with pytest.raises(ValueError, match=f"margin is {margin}"):
        FilterConfig(margin=margin)


def test_duplicates_of_positives():
    #            0      1      2      3    | hard negatives
    documents = ["one", "two", "two", "six", "two", "six", "ten"]
    mask = duplicate_mask(["a", "b", "c", "a"], documents)
    assert places(mask) == {
        (0, 3),  # the positive of the other row that asks the same
        (0, 5),  # a copy of it
        (3, 0),
        (3, 5),  # a copy of the query's own positive
        (1, 2),
        (1, 4),
        (2, 1),
        (2, 4),
    }


class Vectors:
    """Vectors of texts from a dictionary."""

    def __init__(self, vectors):
        self.vectors = vectors

    def take(self, texts):
        return np.stack([self.vectors[text] for text in texts])


def example_batches():
    """The batch above in domain "x", the hard negatives being the first query's; and two rows alike in domain "y"."""
    pairs = [
        TrainingPair("q0", "d0", "x", negatives=("d3", "d4")),
        TrainingPair("q1", "d1", "x"),
        TrainingPair("q2", "d2", "x"),
        TrainingPair("q0", "d0", "y"),
        TrainingPair("q0", "d1", "y"),
    ]
    queries = Vectors({f"q{i}": row for i, row in enumerate(QUERIES)})
    documents = Vectors({f"d{i}": row for i, row in enumerate(DOCUMENTS)})
    return pairs, [np.array([0, 1, 2]), np.array([3, 4])], queries, documents


def test_report_counts_what_is_left_out():
    pairs, batches, queries, documents = example_batches()
    report = report_batches(pairs, batches, FilterConfig(), hard_negatives=2, queries=queries, documents=documents)
    x, y = report.domains["x"], report.domains["y"]
    assert (x.queries, x.candidates, x.false_negatives, x.duplicates) == (3, 12, 3, 0)
    assert (x.queries_affected, x.queries_without_negatives) == (2, 0)
    # In y each row's only negative is the other row's positive: a duplicate, though the surrogate would drop it too.
    assert (y.queries, y.candidates, y.false_negatives, y.duplicates) == (2, 2, 0, 2)
    assert (y.queries_affected, y.queries_without_negatives) == (2, 2)
    assert (report.total.batches, report.total.queries, report.total.duplicates) == (2, 5, 2)
    (example,) = report.examples
    assert (example.query, example.positive, example.dropped, example.hard_negative) == ("q0", "d0", "d1", False)
    assert (example.positive_score, example.dropped_score) == (0.6, 0.8)
    assert json.loads(report.to_json())["domains"]["x"]["false_negatives"] == 3


def test_report_of_a_filter_that_is_off_counts_duplicates_only():
    pairs, batches, queries, documents = example_batches()
    report = report_batches(
        pairs, batches, FilterConfig(enabled=False), hard_negatives=2, queries=queries, documents=documents
    )
    assert report.margin is None
    assert (report.total.false_negatives, report.total.duplicates) == (0, 2)
    assert report.examples == []


def test_examples_are_limited_and_name_hard_negatives():
    pairs, _, queries, documents = example_batches()
    pairs[0] = TrainingPair("q0", "d0", "x", negatives=("d3",))
    alone = [np.array([0, 2])] * 3  # without q1 and d1, the hard negative is the only one left out
    report = report_batches(
        pairs, alone, FilterConfig(), hard_negatives=2, queries=queries, documents=documents, examples=2
    )
    assert [(example.dropped, example.hard_negative) for example in report.examples] == [("d3", True)] * 2
    assert report.total.false_negatives == 3


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_totals_are_sums_over_batches_in_any_order(order):
    pairs, batches, queries, documents = example_batches()
    report = report_batches(
        pairs, batches[order], FilterConfig(margin=0.05), hard_negatives=2, queries=queries, documents=documents
    )
    assert report.margin == 0.05
    assert report.total == FilterCounts(
        batches=2,
        queries=5,
        candidates=3 * 4 + 2 * 1,
        duplicates=2,
        false_negatives=2,
        queries_affected=4,
        queries_without_negatives=2,
    )


@pytest.mark.parametrize(("limit", "expected"), [({"examples": 1}, 1), ({"examples": 0}, 0), ({}, 5)])
def test_a_domain_keeps_as_many_examples_as_asked_for_and_five_unasked(limit, expected):
    pairs, batches, queries, documents = example_batches()
    report = report_batches(
        pairs, batches[:1] * 7, FilterConfig(), hard_negatives=2, queries=queries, documents=documents, **limit
    )
    assert [example.domain for example in report.examples] == ["x"] * expected


def test_a_batch_of_one_pair_meets_its_hard_negatives():
    pairs, _, queries, documents = example_batches()
    report = report_batches(
        pairs, [np.array([0])], FilterConfig(), hard_negatives=2, queries=queries, documents=documents
    )
    assert report.domains == {"x": report.total}
    assert (report.total.candidates, report.total.false_negatives) == (2, 1)


@pytest.mark.parametrize(
    ("used", "candidates", "false_negatives"), [(0, 6, 2), (1, 9, 3), (2, 12, 3)], ids=["none", "the first", "both"]
)
def test_hard_negatives_that_training_does_not_use_are_not_counted(used, candidates, false_negatives):
    pairs, batches, queries, documents = example_batches()
    total = report_batches(
        pairs, batches[:1], FilterConfig(), hard_negatives=used, queries=queries, documents=documents
    ).total
    assert (total.candidates, total.false_negatives) == (candidates, false_negatives)


def test_the_example_is_the_document_most_ahead_of_its_positive_not_the_highest_score():
    #          positives            ahead of the positive
    #   qa   [0.61237]   0.81237    0.2
    #   qb    0.51234   [0.11234]   0.4
    vectors = {"dä": (0.61237, 0.51234), "db": (0.81237, 0.11234)}
    documents = Vectors({name: np.array(vector, np.float32) for name, vector in vectors.items()})
    queries = Vectors({"qa": np.eye(2, dtype=np.float32)[0], "qb": np.eye(2, dtype=np.float32)[1]})
    pairs = [TrainingPair("qa", "dä", "x"), TrainingPair("qb", "db", "x")]
    report = report_batches(
        pairs, [np.array([0, 1])], FilterConfig(), hard_negatives=2, queries=queries, documents=documents
    )
    (example,) = report.examples
    assert (example.query, example.positive, example.dropped) == ("qb", "db", "dä")
    assert (example.positive_score, example.dropped_score) == (0.1123, 0.5123)
    text = report.to_json()
    assert '\n      "dropped": "dä",\n' in text, "a person reads it: indented, umlauts as they are"
