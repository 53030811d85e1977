"""The model card says what the figures say, and no more."""

import json
from dataclasses import replace

from cde_train.evaluation.model_card import MADE, ModelCard, write_model_card
from cde_train.evaluation.results import LABELS
from tests.unit.test_comparison import made

VALUES = {
    "a": {
        "bm25": [0.9, 0.8] * 20,
        "mixture": [0.8, 0.7] * 20,
        "soft_whitening": [0.1, 0.2] * 20,
        "corpus": [0.6, 0.5] * 20,
        "start": [0.5, 0.6] * 20,
    }
}


def test_the_table_holds_the_figures_of_the_report(tmp_path):
    card = ModelCard(
        "mine",
        made(VALUES),
        base_model="org/start",
        data={"pairs": 5, "skipped": {"empty": 2, "no_text.md (empty)": 1}},
    )
    text = write_model_card(tmp_path / "out", card).read_text()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    table = {
        cells[2]: [float(cell) for cell in cells[3:6]]
        for cells in ([cell.strip() for cell in line.split("|")] for line in text.splitlines() if line[:4] == "| a ")
    }
    for row in report["results"]:
        assert table[LABELS[row["mode"]]][0] == round(100 * row["ndcg_at_10"], 2)
    assert len(table) == len(report["results"]) == 5
    assert "| skipped | empty 2, no_text.md (empty) 1 |" in text
    assert 'base_model: "org/start"' in text
    assert "base_model" not in replace(card, base_model=str(tmp_path)).markdown()
    assert card.markdown() == text


def test_figures_of_steps_are_rounded_and_named_in_words():
    card = ModelCard("mine", made(VALUES), compute={"training": {"best_step": 3, "best_ndcg_at_10": 0.812345678}})
    assert "| training | best step 3, best ndcg at 10 0.8123 |" in card.markdown()


def test_the_advice_stands_first_and_says_what_made_queries_are_worth():
    card = ModelCard("mine", made(VALUES), advice="Take this model.", queries_made=True)
    assert f"\n\n**Take this model.** {MADE}\n\n## Use" in card.markdown()
    assert MADE not in replace(card, queries_made=False).markdown()
