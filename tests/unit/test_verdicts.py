"""Sentences about a comparison say which way a difference goes, and what follows from it."""

import pytest

from cde_train.evaluation.verdicts import advise, verdicts
from tests.unit.test_comparison import made
from tests.unit.test_model_card import VALUES


def test_verdicts():
    start, mixture, bm25, plain, whitening = verdicts(made(VALUES))
    assert start.startswith("No difference from the model it started from that 40 queries can show: +0.0 nDCG@10 (-")
    hybrid = "the usual hybrid search (BM25 0.4 + plain backbone 0.6)"
    assert mixture == f"It is worse than {hybrid}: -20.0 nDCG@10 (-20.0 to -20.0)."
    assert bm25 == "It is worse than BM25: -30.0 nDCG@10 (-30.0 to -30.0)."
    assert plain == "Not compared with plain vectors."
    both = verdicts(made({"a": VALUES["a"], "b": {"corpus": [0.6] * 40, "bm25": [0.5] * 40}}), ["bm25"])
    assert both == ["It is worse than BM25: -10.0 nDCG@10 (-10.0 to -10.0); worse on a."]
    assert whitening.startswith("It is better than plain vectors after soft whitening: +40.0 nDCG@10 (+3")
    assert verdicts(made({"a": {"corpus": [1.0]}}))[0] == "Not compared with the model it started from."


def advice(corpus, start, **rivals):
    return advise(made({"a": {mode: [v] * 9 for mode, v in {"corpus": corpus, "start": start, **rivals}.items()}}))


REST = "no simpler search measured here is better beyond chance"
GAINED = "is 10.0 nDCG@10 better than the model it started from"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.6, 0.5), f"Take this model: it {GAINED}, and {REST}."),
        (
            (0.5, 0.5),
            f"Stay with the model it started from: training brought no difference that 9 queries can show, and {REST}.",
        ),
        (
            (0.4, 0.5),
            f"Stay with the model it started from: training made it 10.0 nDCG@10 worse, and {REST}.",
        ),
    ],
)
def test_advice_where_nothing_simpler_is_better(values, said):
    assert advice(*values, mixture=0.5, plain=0.1) == said


def test_a_simpler_search_is_advised_where_it_is_better_than_what_would_be_taken():
    hybrid = "Use the usual hybrid search (BM25 0.4 + plain backbone 0.6) instead: it is"
    assert advice(0.6, 0.5, mixture=0.7, bm25=0.65) == f"{hybrid} 10.0 nDCG@10 better than this model, which {GAINED}."
    assert advice(0.4, 0.5, mixture=0.7) == (
        f"{hybrid} 20.0 nDCG@10 better than the model it started from; training made it 10.0 nDCG@10 worse."
    )
    # Better than a model that training made worse, but not better than its start.
    assert advice(0.4, 0.5, mixture=0.45).startswith("Stay with the model it started from")


def test_without_the_start_the_model_is_held_to_simpler_searches():
    def alone(corpus, **rivals):
        return advise(made({"a": {"corpus": corpus, **{mode: [v] * 9 for mode, v in rivals.items()}}}))

    hybrid = "the usual hybrid search (BM25 0.4 + plain backbone 0.6)"
    assert alone([0.6] * 9, mixture=0.7, bm25=0.65, plain=0.5) == (
        f"Use {hybrid} instead: it is 10.0 nDCG@10 better than this model."
    )
    assert alone([0.6] * 9, mixture=0.4, bm25=0.5, whitening=0.9) == (
        "Take this model: it is 10.0 nDCG@10 better than BM25, the best of the simpler searches."
    )
    level = f"Take this model or {hybrid}: no difference that 9 queries can show."
    assert alone([0.0, 1.0] * 4 + [0.5], mixture=0.5, plain=0.1) == level
    assert alone([1.0]).startswith("Measure BM25, plain vectors or the model it started from too")


@pytest.mark.parametrize(
    ("rivals", "said"),
    [
        ({}, ""),
        (
            {"against": 0.5},
            " It is better than the other checkpoint under the null context: +10.0 nDCG@10 (+10.0 to +10.0).",
        ),
        ({"against_own": 0.7}, " It is worse than the other checkpoint: -10.0 nDCG@10 (-10.0 to -10.0)."),
        (
            {"against_own": 0.7, "against_hybrid": 0.5},
            " It is better than the other checkpoint: +10.0 nDCG@10 (+10.0 to +10.0).",
        ),
    ],
)
def test_it_is_said_how_a_model_stands_to_another(rivals, said):
    take = "Take this model: it is 20.0 nDCG@10 better than BM25, the best of the simpler searches."
    found = made({"a": {mode: [value] * 9 for mode, value in {"corpus": 0.6, "bm25": 0.4, **rivals}.items()}})
    assert advise(found) == take + said


def test_two_parts_are_held_to_the_two_parts_of_the_start():
    values = {"corpus": 0.2, "start": 0.1, "hybrid": 0.6, "start_hybrid": 0.7, "mixture": 0.65, "plain": 0.1}
    found = made({"a": {mode: [value] * 9 for mode, value in values.items()}})
    assert advise(found) == (
        f"Stay with the model it started from: training made it 10.0 nDCG@10 worse, and {REST}. "
        "Measured is its hybrid search, vector and words together; what its one vector does is stated too."
    )
    start, mixture = verdicts(found, ["start", "mixture"])
    assert start == "It is worse than the model it started from: -10.0 nDCG@10 (-10.0 to -10.0)."
    assert mixture.startswith("It is worse than the usual hybrid search")
