"""Mining of hard negatives against a search that compares everything with everything."""

import random

import numpy as np
import pytest

from cde_train.batching.hard_negatives import MiningConfig, mine
from cde_train.data.pairs import TrainingPair
from cde_train.errors import TrainingDataError

WIDTH = 12


class Vectors:
    """A vector for every text, drawn from its characters."""

    def __init__(self, salt=""):
        self.salt = salt
        self.taken = 0

    def take(self, texts):
        self.taken += len(texts)
        rows = [np.random.default_rng(list((self.salt + text).encode())).normal(size=WIDTH) for text in texts]
        rows = np.stack(rows) + 0.3  # all scores above zero, so that no bound is trivial
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


QUERIES, DOCUMENTS = Vectors("query "), Vectors()


def many_pairs():
    """Two domains; repeated queries, repeated documents, and one document that is a query's own text."""
    rng = random.Random(0)
    pairs = [TrainingPair(f"q{rng.randrange(40)}", f"d{rng.randrange(45)}", "x") for _ in range(60)]
    pairs += [TrainingPair(f"q{rng.randrange(40)}", f"e{rng.randrange(30)}", "y") for _ in range(40)]
    return [*pairs, TrainingPair("q99", "q0", "x"), TrainingPair("q0", "d1", "x")]


def searched(pairs, pair, config):
    """Return what the definition allows, nearest first: all documents of the domain looked at."""
    corpus = sorted({other.document for other in pairs if other.domain == pair.domain})
    positives = {other.document for other in pairs if other.query == pair.query}
    here = sorted({o.document for o in pairs if o.query == pair.query and o.domain == pair.domain})
    query = QUERIES.take([pair.query])[0]
    score = dict(zip(corpus, DOCUMENTS.take(corpus) @ query, strict=True))
    least = min(score[text] for text in here)
    highest = min(
        least - config.absolute_margin if config.absolute_margin is not None else np.inf,
        least - abs(least) * config.relative_margin if config.relative_margin is not None else np.inf,
    )
    ranked = sorted((text for text in corpus if text not in here), key=lambda text: -score[text])
    allowed = [text for text in ranked if score[text] <= highest][config.range_min :]
    return [text for text in allowed if text not in positives and text != pair.query]


@pytest.mark.parametrize(
    "config",
    [
        MiningConfig(count=3, relative_margin=None),
        MiningConfig(count=2),
        MiningConfig(count=2, range_min=4),
        MiningConfig(count=1, absolute_margin=0.1, relative_margin=None),
        MiningConfig(count=2, absolute_margin=-0.05, relative_margin=0.02),
    ],
    ids=str,
)
def test_negatives_are_those_of_a_full_search(config):
    pairs = many_pairs()
    mined = mine(pairs, config, queries=QUERIES, documents=DOCUMENTS)
    report, compared = mined.report, 0
    assert [(p.query, p.document, p.domain) for p in mined.pairs] == [(p.query, p.document, p.domain) for p in pairs]
    for pair in mined.pairs:
        expected = searched(pairs, pair, config)
        if len(expected) >= config.count:
            assert pair.negatives == tuple(expected[: config.count])
            compared += 1
        else:
            assert len(pair.negatives) in (0, config.count)
            assert set(pair.negatives) >= set(expected[: len(pair.negatives)])
    assert compared > 40
    assert report.fully_mined == compared
    assert report.pairs == len(pairs) == report.fully_mined + report.topped_up_at_random + report.too_few
    assert report.too_few == sum(not pair.negatives for pair in mined.pairs)


@pytest.mark.parametrize("strategy", ["top", "random"])
@pytest.mark.parametrize("search_size", [13, 1000])
def test_what_no_negative_may_be(strategy, search_size):
    pairs = many_pairs()
    config = MiningConfig(count=4, relative_margin=None, strategy=strategy, search_size=search_size, range_max=20)
    mined = mine(pairs, config, queries=QUERIES, documents=DOCUMENTS).pairs
    positives = {query: {p.document for p in pairs if p.query == query} for query in {p.query for p in pairs}}
    for pair in mined:
        assert len(set(pair.negatives)) == len(pair.negatives) in (0, 4)
        assert not positives[pair.query] & set(pair.negatives)
        assert pair.query not in pair.negatives
        assert set(pair.negatives) <= {other.document for other in pairs if other.domain == pair.domain}
    assert sum(bool(pair.negatives) for pair in mined) > 90


def test_the_seed_decides_and_pythons_own_generator_is_left_alone():
    def negatives(seed):
        config = MiningConfig(count=2, strategy="random", seed=seed)
        return [pair.negatives for pair in mine(many_pairs(), config, queries=QUERIES, documents=DOCUMENTS).pairs]

    random.seed(5)
    first = negatives(0)
    after = random.random()
    random.seed(5)
    assert random.random() == after
    assert negatives(0) == first
    assert negatives(1) != first


# On a circle: a query and three documents at 0, 20, 40 and 60 degrees from it; scores 1, 0.94, 0.77, 0.5.
ANGLES = {"ask": 0, "copy": 0, "near": 20, "middle": 40, "far": 60}


class Circle:
    def take(self, texts):
        angles = np.radians([ANGLES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def on_the_circle(config, *positives, others=(), own=()):
    pairs = [TrainingPair("ask", text, "x", own) for text in positives] + [TrainingPair(t, t, "x") for t in others]
    return mine(pairs, config, queries=Circle(), documents=Circle())


def test_margins_are_relative_to_the_least_of_several_positives():
    config = MiningConfig(count=1, relative_margin=None, absolute_margin=0.1)
    assert on_the_circle(config, "near", others=["middle", "far"]).pairs[0].negatives == ("middle",)
    several = on_the_circle(config, "near", "middle", others=["copy", "far"]).pairs[:2]
    assert [pair.negatives for pair in several] == [("far",), ("far",)]


def test_pairs_with_too_few_are_filled_at_random_or_left_as_they_were():
    texts = {"others": ["middle", "far", "copy"]}
    # Only one rank is looked at, and it is nearer than the positive; what else keeps the margin is "far".
    filled = on_the_circle(MiningConfig(count=1, range_max=1), "middle", others=["near", "far", "copy"])
    assert filled.pairs[0].negatives == ("far",)
    assert filled.report.topped_up_at_random == 1
    # Two are wanted, and nothing but "middle" and "far" keeps the margin.
    assert on_the_circle(MiningConfig(count=2), "near", **texts).pairs[0].negatives == ("middle", "far")
    none = on_the_circle(MiningConfig(count=3), "near", **texts, own=("far",))
    assert none.pairs[0].negatives == ("far",)
    assert none.report.too_few == 1


def test_a_pairs_own_negatives_come_first():
    texts = {"others": ["middle", "far"]}
    mined = on_the_circle(MiningConfig(count=2), "near", **texts, own=("far",))
    assert mined.pairs[0].negatives == ("far", "middle")
    kept = on_the_circle(MiningConfig(count=1), "near", **texts, own=("middle", "far"))
    assert kept.pairs[0].negatives == ("middle", "far")
    assert kept.report.already_had == 1


def test_a_query_with_very_many_positives():
    pairs = [TrainingPair("all", f"d{i}", "x") for i in range(40)] + [TrainingPair("one", "d40", "x")]
    config = MiningConfig(count=2, relative_margin=None, range_max=3)
    mined = mine(pairs, config, queries=QUERIES, documents=DOCUMENTS)
    assert {len(pair.negatives) for pair in mined.pairs[:40]} == {0}  # a single document is not its own
    assert mined.pairs[40].negatives == tuple(searched(pairs, pairs[40], config)[:2])


def test_a_domain_of_one_document_has_no_negatives():
    pairs = [TrainingPair("q1", "d1", "x"), TrainingPair("q2", "d1", "x")]
    mined = mine(pairs, MiningConfig(), queries=QUERIES, documents=DOCUMENTS)
    assert mined.pairs == pairs
    assert mined.report.too_few == 2


def test_vectors_are_asked_for_once():
    vectors = Vectors()
    pairs = many_pairs()
    mine(pairs, MiningConfig(), queries=QUERIES, documents=vectors)
    assert vectors.taken == len({(pair.document, pair.domain) for pair in pairs})


def test_bad_input_is_refused():
    with pytest.raises(TrainingDataError, match="no pairs"):
        mine([], MiningConfig(), queries=QUERIES, documents=DOCUMENTS)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 5, "range_min": 97}, "range_max is 100, .* at least 102"),
        ({"relative_margin": float("nan")}, "relative_margin is nan"),
        ({"strategy": "best"}, "'best', expected 'top' or 'random'"),
    ],
)
def test_settings_out_of_range_are_refused(values, fault):
    with pytest.raises(ValueError, match=fault):
        MiningConfig(**values)
