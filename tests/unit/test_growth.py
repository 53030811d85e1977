"""Growth: sets that other sets join, and the page of what becomes of their questions."""

import json

import numpy as np
import pytest

from benchmarks import growth
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.evaluation.ranking import measure, rank
from tests.tiny import documents, headed_encoder
from tests.unit.test_quality import write_sets


def test_a_set_grows_and_keeps_its_questions(tmp_path):
    encoder = headed_encoder()
    folder = encoder.save_pretrained(tmp_path / "model")
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "docs" / "figures" / "growth.json"
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
    assert found["queries own", 0]["ndcg_at_10"] == found["queries refitted", 0]["ndcg_at_10"]
    asking = ContextualEncoder.from_pretrained(folder, context_for="queries")
    data = read_retrieval_set(sets / "a")
    asking.fit_context(data.documents)
    ranking = rank(asking.encode_queries(data.queries), asking.encode_documents(data.documents))
    assert found["queries own", 0]["ndcg_at_10"] == round(measure(data, ranking).means()["ndcg_at_10"], 6)
    own, refitted, plain = (found[row, 9]["ndcg_at_10"] for row in ("queries own", "queries refitted", "plain"))
    assert min(own, refitted) > plain, "words of the set's own documents are known under either"
    for way in ("theirs", "together"):
        assert found[f"routed {way}", 0]["ndcg_at_10"] == alone["ndcg_at_10"], "nothing joined"
        assert found[f"routed {way}", 9]["own_in_top_10"] < 1, "what joined is asked too"
    page = output.with_suffix(".md").read_text()
    assert f"| two parts, refitted | {100 * alone['ndcg_at_10']:.1f} |" in page


def test_a_stopped_run_goes_on_and_measures_nothing_twice(tmp_path, monkeypatch):
    folder = headed_encoder().save_pretrained(tmp_path / "model")
    sets, output, ranked = write_sets(tmp_path / "sets"), tmp_path / "growth.json", []
    shared = ["--factors", "0.5", "--output", str(output), "--cache", str(tmp_path / "cache"), "--dtype", "float32"]
    arguments = [str(folder), str(sets / "a"), "--foreign", str(sets), *shared]
    summary = growth.summary

    def stops(*which):
        ranked.append(which)
        if len(ranked) == 7:
            raise KeyboardInterrupt
        return summary(*which)

    monkeypatch.setattr(growth, "summary", stops)
    with pytest.raises(KeyboardInterrupt):
        growth.main(arguments)
    assert len(json.loads(output.read_text())["results"]) == 6
    assert growth.main(arguments) == 0
    assert len(ranked) == 1 + 2 * len(growth.ROWS) == 1 + len(json.loads(output.read_text())["results"])


def test_the_page_holds_means_over_sets_that_have_them():
    """Two sets, one of them routed and grown 50 times; by hand: (40 + 60) / 2 alone, 48 grown."""
    whole = {"own_in_top_10": 1.0}
    rows = [
        {"row": row, "set": name, "factor": factor, "reached": factor - (name == "b"), "ndcg_at_10": value} | whole
        for name, factor, value in (("a", 0, 0.4), ("a", 5, 0.36), ("a", 50, 0.3), ("b", 0, 0.6), ("b", 5, 0.6))
        for row in growth.ROWS
        if name == "a" or not row.startswith("routed")
    ]
    first, *others = "\n".join(growth.page_lines(rows)).split("\n## ")[1:]
    assert "5 times (4.5 reached)" in first, "a set counts once, however many rows it has"
    assert "| plain | 50.0 | 48.0 (-4.0 %, 100 %) |" in first
    assert "routed" not in first
    assert "50 times" not in first
    assert others[0].startswith("The 1 sets that were routed too")
    assert others[0].splitlines()[2:] == others[1].splitlines()[2:], "that set's own"
    assert (
        "| two parts, routed, a context a corpus | 40.0 | 36.0 (-10.0 %, 100 %) | 30.0 (-25.0 %, 100 %) |" in others[1]
    )
    assert "| two parts, own context frozen | 60.0 | 60.0 (+0.0 %, 100 %) |" in others[2]


def test_summary_counts_own_documents_among_ten():
    texts = documents(12)
    data = growth.RetrievalSet("x", tuple(map(str, range(12))), tuple(texts), ("q",), ("a",), {"q": {"3": 1}})
    found = growth.summary(data, [np.array([3, 8, 1, 9, 10, 11, 0, 2, 4, 5, 6, 7])], own=8)
    assert found == {"ndcg_at_10": 1.0, "own_in_top_10": pytest.approx(0.6)}
