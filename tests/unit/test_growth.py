"""Growth: sets that other sets join, and the page of what becomes of their questions."""

import json

import numpy as np
import pytest

from benchmarks import growth
from tests.tiny import documents, headed_encoder
from tests.unit.test_quality import write_sets


def test_a_set_grows_and_keeps_its_questions(tmp_path):
    encoder = headed_encoder()
    folder = encoder.save_pretrained(tmp_path / "model")
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "docs" / "growth.json"
    shared = ["--output", str(output), "--cache", str(tmp_path / "cache"), "--dtype", "float32"]
    growth.main([str(folder), str(sets / "a"), "--foreign", str(sets), "--factors", "0.5", "9", *shared])
    found = {(row["row"], row["factor"]): row for row in json.loads(output.read_text())["results"]}
    assert {row for row, _ in found} == set(growth.ROWS)
    alone, half, most = (found["hybrid own", factor] for factor in (0, 0.5, 9))
    assert alone["own_in_top_10"] == 1.0
    assert 0.5 <= half["reached"] < most["reached"] < 9  # two sets are all there is
    assert alone["documents"] < half["documents"] < most["documents"]
    assert most["own_in_top_10"] < 1
    assert found["hybrid own", 0]["ndcg_at_10"] == found["hybrid refitted", 0]["ndcg_at_10"] > 0.9
    page = output.with_suffix(".md").read_text()
    assert f"| two parts, refitted | {100 * alone['ndcg_at_10']:.1f} |" in page


def test_summary_counts_own_documents_among_ten():
    texts = documents(12)
    data = growth.RetrievalSet("x", tuple(map(str, range(12))), tuple(texts), ("q",), ("a",), {"q": {"3": 1}})
    found = growth.summary(data, [np.array([3, 8, 1, 9, 10, 11, 0, 2, 4, 5, 6, 7])], own=8)
    assert found == {"ndcg_at_10": 1.0, "own_in_top_10": pytest.approx(0.6)}
