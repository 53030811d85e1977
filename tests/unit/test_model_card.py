"""The model card says what the figures say, and no more."""

import json
from dataclasses import replace

from cde_train.evaluation.model_card import ModelCard, verdicts, write_model_card
from cde_train.evaluation.results import LABELS
from tests.unit.test_comparison import made

VALUES = {
    "a": {
        "bm25": [0.9, 0.8] * 20,
        "mixture": [0.8, 0.7] * 20,
        "whitening": [0.1, 0.2] * 20,
        "corpus": [0.6, 0.5] * 20,
        "start": [0.5, 0.6] * 20,
    }
}


def test_the_table_holds_the_figures_of_the_report(tmp_path):
    card = ModelCard("mine", made(VALUES), base_model="org/start", data={"pairs": 5, "skipped": {"empty": 2}})
    text = write_model_card(tmp_path / "out", card).read_text()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    table = {
        cells[2]: [float(cell) for cell in cells[3:6]]
        for cells in ([cell.strip() for cell in line.split("|")] for line in text.splitlines() if line[:4] == "| a ")
    }
    for row in report["results"]:
        assert table[LABELS[row["mode"]]][0] == round(100 * row["ndcg_at_10"], 2)
    assert len(table) == len(report["results"]) == 5
    assert "| skipped | empty 2 |" in text
    assert 'base_model: "org/start"' in text
    assert "base_model" not in replace(card, base_model=str(tmp_path)).markdown()
    assert card.markdown() == text


def test_verdicts():
    start, mixture, bm25, whitening = verdicts(made(VALUES))
    assert start.startswith("It does not beat starting model: +0.00")
    assert "no difference that this many queries can show" in start
    assert mixture == "It does not beat BM25 0.4 + plain backbone 0.6: -20.00 nDCG@10 (-20.00 to -20.00)."
    assert bm25 == "It does not beat BM25: -30.00 nDCG@10 (-30.00 to -30.00)."
    both = verdicts(made({"a": VALUES["a"], "b": {"corpus": [0.6] * 40, "bm25": [0.5] * 40}}), ["bm25"])
    assert both[0].endswith("; it loses on a.")
    assert whitening.startswith("It beats PCA whitening: +40.00")
    assert verdicts(made({"a": {"corpus": [1.0]}}))[0] == "Against starting model: not measured."
