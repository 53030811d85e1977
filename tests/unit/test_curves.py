"""The ablation by pairs seen: the order of rungs, each going on from the one before, and what the page adds up."""

import numpy as np
import pytest
import torch
from transformers import BertModel

from benchmarks.ablation import curves
from benchmarks.ablation.curves import Pairs, Rung, perform, read_settings, rungs
from benchmarks.ablation.curves_page import differences, markdown, scores
from benchmarks.ablation.curves_start import make_start, token_weights
from benchmarks.ablation.data import DataConfig, draw_pairs, held_out_sets
from cde_retriever.checkpoint.checkpoint import read_checkpoint
from cde_train.data.pairs import TrainingPair, texts_of, write_pairs
from cde_train.training.trainer import TrainResult
from cde_train.vectors.surrogate import embed_texts
from tests.tiny import plain_encoder
from tests.unit.test_surrogate import CountingSurrogate
from tests.unit.test_trainer import training_set


def config(tmp_path) -> dict:
    train = {"batch_size": 8, "chunk_size": 8, "train_length": 24, "context_sizes": [2, 4], "warmup_steps": 1}
    return {
        "seeds": [0, 1],
        "output": str(tmp_path / "runs"),
        "first_rung": 16,
        "start": {"base": str(plain_encoder(tmp_path / "plain")), "max_length": 24, "context_size": 4, "gate": 0.5},
        "train": train | {"train_first_stage": True, "save_steps": 10},
        "cell": {
            "mixed": {"clustering": {"method": "domain", "mixed": True}, "contexts": ["null"]},
            "both": {"clustering": {"method": "kmeans", "cluster_size": 8}, "contexts": ["corpus"]},
        },
    }


def test_a_file_that_extends_another_changes_what_it_names(tmp_path):
    (tmp_path / "base.toml").write_text('seeds = [0, 1]\n[data]\na = 1\nb = 2\n[cell.x]\n[effects]\ne = ["x", "x"]\n')
    (tmp_path / "own.toml").write_text('extends = "base.toml"\nseeds = [5]\n[data]\nb = 3\n[cell.y]\nc = 1\n')
    assert read_settings(tmp_path / "own.toml") == {
        "seeds": [5],
        "data": {"a": 1, "b": 3},
        "cell": {"y": {"c": 1}},
        "effects": {},
    }


def test_rungs_come_breadth_first_and_double(tmp_path):
    found = [(r.run.cell, r.run.seed, r.begin, r.end) for r in rungs(config(tmp_path), 40, [], [1])]
    assert found == [("mixed", 1, 0, 16), ("both", 1, 0, 16), ("mixed", 1, 16, 32), ("both", 1, 16, 32)]
    only = list(rungs(config(tmp_path), 20, ["both"], []))
    assert [(r.run.cell, r.run.seed) for r in only] == [("both", 0), ("both", 1)]


@pytest.fixture
def data(tmp_path) -> Pairs:
    pairs = training_set().pairs
    return Pairs(list(pairs), embed_texts(texts_of(pairs), CountingSurrogate(), tmp_path / "vectors", identity="x"))


def test_a_rung_goes_on_where_the_one_before_it_ended(tmp_path, data, monkeypatch):
    monkeypatch.setattr(curves, "measure", lambda *_: {})
    settings = config(tmp_path)
    first, second = list(rungs(settings, 32, ["both"], [0]))
    assert perform(first, settings, data)["pairs"] == 16
    settings["train"] |= dict.fromkeys(("learning_rate", "new_learning_rate", "gate_learning_rate"), 0.0)
    perform(second, settings, data)
    start = curves.open_start(Rung(first.run, 0, 16), settings).open_model().state_dict()
    one, other = (read_checkpoint(rung.model).model.state_dict() for rung in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert start["second_stage.gate"].unique().tolist() == [0.5]
    assert any(not torch.equal(start[name], one[name]) for name in one)
    assert not torch.equal(start["first_stage.backbone.encoder.layer.0.attention.self.query.weight"],
                           one["first_stage.backbone.encoder.layer.0.attention.self.query.weight"])  # fmt: skip


def test_a_mixed_cell_puts_all_domains_into_one_batch(tmp_path, data):
    everything = data.cluster({"method": "domain", "mixed": True}, tmp_path)
    apart = data.cluster({"method": "domain"}, tmp_path)
    assert len(set(everything.labels.tolist())) == 1
    assert len(set(apart.labels.tolist())) == 2


def test_held_out_domains_are_judged_by_pairs_that_are_not_drawn(tmp_path):
    rows = [TrainingPair(f"q{i}", f"d{i // 2}", domain) for domain in ("a", "b") for i in range(6)]
    write_pairs(rows, tmp_path / "pairs.jsonl")
    draw = DataConfig(str(tmp_path / "pairs.jsonl"), "", 64, 10, ("a",))
    assert {pair.domain for pair in draw_pairs(draw)} == {"b"}
    (found,) = held_out_sets(draw, ["a"])
    answers = {text: list(found.relevant[key]) for key, text in zip(found.query_ids, found.queries, strict=True)}
    texts = dict(zip(found.document_ids, found.documents, strict=True))
    assert {text: [texts[key] for key in keys] for text, keys in answers.items()} == {
        f"q{i}": [f"d{i // 2}"] for i in range(6)
    }
    assert len(held_out_sets(draw, ["a"], 2)[0].queries) == 2
    with pytest.raises(ValueError, match="held_out names b, which are drawn"):
        held_out_sets(draw, ["b"])


def test_a_cell_may_have_a_margin_of_its_own(tmp_path, data, monkeypatch):
    monkeypatch.setattr(curves, "measure", lambda *_: {})
    seen = []
    monkeypatch.setattr(
        curves,
        "train",
        lambda _, data, *__: seen.append(data.filtering.margin) or TrainResult(0, None, None, [{"loss": 0}]),
    )
    settings = config(tmp_path) | {"filtering": {"margin": -0.1}}
    for own in ({}, {"filtering": {"margin": 0.25}}):
        settings["cell"]["mixed"] |= own
        perform(next(rungs(settings, 16, ["mixed"], [0])), settings, data)
    assert seen == [-0.1, 0.25]


def test_difficulty_is_that_of_the_pairs_named(data):
    batches = np.array([[5, 9, 30], [2, 40, 7]])
    queries, documents = (view[np.arange(48)].astype(float) for view in data.views())
    expected = []
    for row in batches:
        q, d = queries[row], documents[row]
        both = (q @ d.T + d @ q.T) / 2
        expected.append((both.sum() - np.trace(both)) / 6)
    assert data.difficulty(batches) == pytest.approx(np.mean(expected), abs=1e-6)


def result(cell, seed, pairs, **contexts) -> dict:
    sets = {"a": {name: value / 100 for name, value in contexts.items()}}
    return {
        "cell": cell,
        "seed": seed,
        "pairs": pairs,
        "sets": sets,
        "batch_difficulty": 0.1,
        "training_cpu_seconds": 2,
    }


def test_the_page_compares_equal_seeds_and_sizes():
    results = [
        *(result("mixed", seed, 16, null=30 + seed) for seed in (0, 1)),
        *(result("both", seed, 16, corpus=33 + 3 * seed, null=32.0, foreign=31.0) for seed in (0, 1)),
        result("both", 0, 32, corpus=50, null=49.0, foreign=45.0),
    ]
    assert scores(results, "both", 16) == pytest.approx({0: 33, 1: 36})
    assert scores(results, "both null", 32) == pytest.approx({0: 49})
    assert scores(results, "mixed foreign", 16) == {}
    assert differences(results, "both", "mixed", 16) == pytest.approx([3, 5])
    assert differences(results, "both", "mixed", 32) == []
    effects = {"both - random": ["both", "mixed"], "both, own - foreign": ["both", "both foreign"]}
    settings = {"title": "By pairs", "effects": effects}
    text = markdown(results, settings, {"mixed": "neither", "both": "both"}, "curves.toml", "page")
    assert "| both - random | 4.00 ± 12.71 |  |" in text
    assert "| both, own - foreign | 3.50 ± 19.06 | 5.00 |" in text
    assert "| both | 0.100 | 8 |" in text  # 16 pairs in the first rung and 16 more in the second, two seconds each


def test_the_start_keeps_the_words_neighbours(tmp_path):
    torch.manual_seed(0)
    few = torch.randn(40, 128) @ torch.randn(128, 160)  # of rank 40: 128 directions hold all of it
    make_start(few, tmp_path / "start")
    start = BertModel.from_pretrained(tmp_path / "start", add_pooling_layer=False)
    words = start.embeddings.word_embeddings.weight.detach()
    assert words.shape == (40, 128)
    assert words.std() == pytest.approx(0.05, rel=1e-3)
    wanted = torch.pdist(few)
    torch.testing.assert_close(
        torch.pdist(words) / torch.pdist(words).mean(), wanted / wanted.mean(), rtol=1e-3, atol=0
    )


def test_the_surrogate_weighs_tokens_by_how_rare_they_are():
    table = torch.eye(3)
    weights, mean = token_weights([[0, 1], [0], [0, 0], [0]], table)
    # In 4, 1 and 0 of 4 texts: shares 4.5, 1.5 and 0.5 of 5.
    assert weights.tolist() == pytest.approx([0, -np.log(0.3) - 1, -np.log(0.1) - 1])
    assert mean.tolist() == pytest.approx([4.5 / 6.5, 1.5 / 6.5, 0.5 / 6.5])
