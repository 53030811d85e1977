"""A checkpoint beside its baselines: the figures are those of direct computation, and losses are named."""

import json

import numpy as np
import pytest

from cde_train.comparison import PLAIN_MODES, Comparison, Result, bootstrap, compare, compare_folder
from cde_train.evaluation import evaluate, find_retrieval_sets, read_retrieval_set
from tests.tiny import tiny_encoder
from tests.unit.test_quality import write_sets


@pytest.fixture
def sets(tmp_path):
    return [read_retrieval_set(folder) for folder in find_retrieval_sets(write_sets(tmp_path / "sets"))]


def made(values):
    """Make a comparison from {set: {mode: one list of nDCG a seed}}."""
    results = [
        Result(name, mode, i, 9, len(row), *[float(np.mean(row))] * 3, tuple(row))
        for name, modes in values.items()
        for mode, seeds in modes.items()
        for i, row in enumerate(seeds)
    ]
    return Comparison("tiny", "0" * 64, 64, tuple(results))


def test_figures_equal_direct_computation(encoder, sets):
    start = tiny_encoder(seed=1)
    found = compare(encoder, sets[:2], start=start, against=start, seeds=(0, 3))
    data = sets[0]
    embed = encoder.encode_first_stage
    assert found.value("a", "plain") == evaluate(data, embed(data.queries), embed(data.documents)).means()["ndcg_at_10"]
    cases = [(encoder, sets[1].documents, "foreign", 0), (encoder, data.documents, "corpus", 3)]
    for model, source, mode, seed in [*cases, (start, data.documents, "start", 0)]:
        model.fit_context(source, seed=seed)
        quality = evaluate(data, model.encode_queries(data.queries), model.encode_documents(data.documents))
        row = next(r for r in found.results if (r.set, r.mode, r.seed) == ("a", mode, seed))
        assert row.ndcg_per_query == tuple(quality.ndcg_at_10)
        assert row.recall_at_100 == quality.means()["recall_at_100"]
    assert found.modes == ["bm25", *PLAIN_MODES, "null", "foreign", "corpus", "start", "against"]


def test_the_encoder_keeps_its_context_and_a_lone_set_has_no_foreign_one(encoder, sets):
    encoder.set_context(encoder.null_context())
    before = encoder.context
    assert "foreign" not in compare(encoder, sets[:1]).modes
    assert encoder.context is before
    assert "foreign" in compare(encoder, sets[:1], foreign=sets[1].documents).modes


def test_differences_by_hand():
    found = made({"a": {"plain": [[0.5, 0.5]], "corpus": [[0.6, 0.6], [0.8, 0.8]]},
                  "b": {"plain": [[0.5, 0.5]], "corpus": [[0.4, 0.4]]}})  # fmt: skip
    (difference,) = found.differences()
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.05, 0.05, 0.05))
    assert difference.loses_on == pytest.approx({"b": -0.1})
    assert "| plain backbone (2 sets) | +5.00 | +5.00 to +5.00 | b -10.0 |" in found.markdown()
    assert found.means()["corpus"]["ndcg_deviation_over_context_seeds"] == pytest.approx(0.02**0.5)


def test_an_interval_around_zero_is_level():
    level = made({"a": {"plain": [[1.0, 0.0] * 50], "corpus": [[0.0, 1.0] * 50]}})
    assert level.differences()[0].verdict == "level with"
    assert bootstrap([np.tile([-1.0, 1.0], 200)]) == pytest.approx((0, -0.098, 0.098), abs=0.005)


def test_no_sets_and_no_seeds_are_refused(encoder, sets):
    with pytest.raises(ValueError, match=r"received \[\]"):
        compare(encoder, [])
    with pytest.raises(ValueError, match="at least one seed"):
        compare(encoder, sets, seeds=())


def test_a_folder_of_sets(checkpoint, tmp_path):
    folder = write_sets(tmp_path / "sets")
    found = compare_folder(checkpoint, folder / "a", foreign=folder / "b", device="cpu", show_progress=False)
    assert found.sets == ["a"]
    rows = [json.loads(json.dumps(row)) for row in found.rows()]
    assert len(rows) == len(found.modes)
    assert json.loads(json.dumps(found.to_dict()))["results"][0]["ndcg_at_10"] == rows[0]["ndcg_at_10"]
