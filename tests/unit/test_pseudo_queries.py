"""Queries made of documents, and the round trip."""

import random

import numpy as np
import pytest

from cde_retriever.lifecycle.questions import heading, keywords_of, lead
from cde_train.data.pairs import TrainingPair
from cde_train.data.pseudo_queries import (
    PseudoQueryConfig,
    make_pairs,
    round_trip_filter,
)
from cde_train.errors import TrainingDataError

TEXTS = [f"Title {i}\n\nThe sentence number {i} stands here. " + f"word{i % 7}x rest of text " * 9 for i in range(20)]


def test_generators_read_heading_lead_and_rare_words() -> None:
    rng = random.Random(0)
    assert heading(TEXTS[3], rng) == ["Title 3"]
    assert lead(TEXTS[3], rng) == ["The sentence number 3 stands here."]
    corpus = ["alpha beta gamma the", "alpha beta gamma the", *["the other text"] * 8]
    assert keywords_of(corpus)(corpus[0], rng) == ["alpha beta gamma"]


def test_what_became_the_query_is_not_in_the_document() -> None:
    made = make_pairs(TEXTS, "x", PseudoQueryConfig(("heading", "lead", "crop"), per_document=3, keep_text=0))
    assert set(made.values()) == {"heading", "lead", "crop"}
    for pair in made:
        assert pair.source in TEXTS
        assert pair.source.count(pair.query) == pair.document.count(pair.query) + 1
    kept = make_pairs(TEXTS, "x", PseudoQueryConfig(("lead",), keep_text=1))
    assert all(pair.query in pair.document for pair in kept)


def test_pairs_follow_from_text_and_seed_not_from_order() -> None:
    made = make_pairs(TEXTS, "x")
    assert make_pairs(TEXTS[::-1], "x") == made
    assert make_pairs(TEXTS, "x", PseudoQueryConfig(seed=1)) != made
    with pytest.raises(TrainingDataError, match="none of 1 documents"):
        make_pairs(["short"], "x")


class Angles:
    """A text's vector is at the angle, in degrees, that it names."""

    def take(self, texts):
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_round_trip_keeps_by_rank_and_own_source_does_not_compete() -> None:
    near, far = TrainingPair("0", "10", "x", source="0"), TrainingPair("50", "90", "x", source="60")
    # "60" would beat "10" for no query; "0", its own source, is not counted; for "50", "0" is farther than "90"
    assert round_trip_filter({near: "a", far: "b"}, Angles(), PseudoQueryConfig(keep_rank=1)).kept == {"a": 1, "b": 1}
    made = {near: "a", TrainingPair("20", "90", "x", source="60"): "b"}
    found = round_trip_filter(made, Angles(), PseudoQueryConfig(keep_rank=1))
    assert (found.kept, found.dropped, found.pairs) == ({"a": 1}, {"b": 1}, [near])
    assert round_trip_filter(made, Angles(), PseudoQueryConfig(keep_rank=2)).dropped == {}
