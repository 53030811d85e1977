"""The benchmark of scores: the best nodes of right documents, of others, and of questions about something else."""

import json

import pytest

from benchmarks import score_cutoffs
from tests.tiny import HEADED, tiny_encoder
from tests.unit.test_quality import write_sets


def test_scores_of_right_and_wrong_nodes_are_told_by_form(tmp_path):
    folder, sets = tiny_encoder(**HEADED).save_pretrained(tmp_path / "model"), write_sets(tmp_path / "sets")
    output = tmp_path / "score_cutoffs.json"
    shared = ["--cache", str(tmp_path / "cache"), "--dtype", "float32", "--output", str(output)]
    score_cutoffs.main([str(folder), str(sets), "--split", "a", *shared])
    rows = json.loads(output.read_text())["results"]
    assert [(row["set"], row["form"]) for row in rows] == [(s, form) for s in "abc" for form in score_cutoffs.FORMS]
    for row in rows:
        assert row["questions"] == {"right": 5, "wrong": 5, "elsewhere": 10, "others": 10}
        assert row["nodes"] >= 20
        assert all(values == sorted(values, reverse=True) for values in row["reached"].values())
        assert all(values == sorted(values) for values in row["percentiles"].values())
    page = output.with_suffix(".md").read_text()
    assert "## One vector" in page
    assert "| b | 20 | " in page, "not split"


def test_percentiles_and_shares_are_of_the_best_nodes():
    values = score_cutoffs.np.array([0.1, 0.2, 0.3])
    assert score_cutoffs.percentiles(values) == pytest.approx([0.11, 0.2, 0.29])
    assert dict(zip(score_cutoffs.CUTOFFS, score_cutoffs.reached(values), strict=True))[0.2] == pytest.approx(
        2 / 3, abs=1e-4
    )


def test_nodes_know_their_documents():
    encoder = tiny_encoder(**HEADED)
    nodes, of = score_cutoffs.node_texts(encoder, ["baron kolak. " * 200, "one"])
    assert len(nodes) == len(of) > 2
    assert of.tolist() == sorted(of.tolist())
    assert (nodes[-1], of[-1]) == ("one", 1)
