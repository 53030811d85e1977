"""The loop: what a step sees, what is trained, saved states, resume after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.direct_step import direct_step
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, TruncationWarning
from cde_retriever.search.hybrid import search
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.errors import ArtifactError, TrainingDataError
from cde_train.evaluation.ranking import evaluate, measure
from cde_train.training import callbacks, trainer
from cde_train.training.batches import BatchBuilder, TrainingSet
from cde_train.training.config import TrainConfig
from cde_train.training.gradient_caching import Chunking
from cde_train.training.saved_state import COMPLETE_NAME, claim, newest_whole_state
from cde_train.training.trainer import train
from cde_train.vectors.surrogate import FirstStage, embed_texts
from cde_train.vectors.text_vectors import TextVectors
from tests.tiny import HEADED, documents, headed_encoder, tiny_backbone, tiny_encoder, tiny_tokenizer

CONFIG = TrainConfig(
    steps=6,
    batch_size=8,
    chunk_size=3,
    train_length=24,
    context_source="domain",
    context_sizes=(2, 10),
    null_rate=0.3,
    context_dropout=0.2,
    learning_rate=1e-3,
    warmup_steps=2,
    save_steps=2,
)
COUNTING = {"context_attention": "late", "context_moments": False, "term_statistics": True, "share_backbone": True}


def training_set(negatives: int = 0, steps: int = 6) -> TrainingSet:
    """Two domains of 24 pairs, batches of 8 from one domain each."""
    pairs = []
    for domain, seed in (("first", 1), ("second", 2)):
        texts = documents(24 * (1 + negatives), seed=seed)
        for i, text in enumerate(texts[:24]):
            hard = tuple(texts[24 + i * negatives : 24 + (i + 1) * negatives])
            pairs.append(TrainingPair(text.split(maxsplit=1)[1] + f" {i}", text, domain, hard))
    rng = np.random.default_rng(0)
    rows = [rng.permutation(24)[:8] + 24 * (step % 2) for step in range(steps)]
    return TrainingSet(pairs, np.stack(rows))


def development() -> RetrievalSet:
    texts = documents(20, seed=9)
    texts[0] += " baron" * 70  # more than the model reads, of which nobody is warned at every measurement
    ids = tuple(str(i) for i in range(20))
    return RetrievalSet("dev", ids, tuple(texts), ids, tuple(text[:15] for text in texts), {i: {i: 1} for i in ids})


def weights(encoder: ContextualEncoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.open_model().state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_run_trains_the_second_stage_alone_and_keeps_shared_words(tmp_path):
    encoder = tiny_encoder(share_word_embeddings=True)
    before = weights(encoder)
    result = train(encoder, training_set(), replace(CONFIG, eval_steps=2), tmp_path / "of this day" / "run")
    moved = changed(before, weights(encoder))
    assert (result.steps, result.best_step, result.best_ndcg_at_10) == (6, None, None)  # nothing to measure on
    assert not any(parameter.requires_grad for parameter in encoder.open_model().parameters())
    assert "second_stage.gate" in moved
    assert "second_stage.context_projection.weight" in moved
    assert any("layer.2" in name for name in moved)
    assert not any(name.startswith("first_stage") or "word_embeddings" in name for name in moved)
    losses = [row["loss"] for row in result.log if "loss" in row]
    assert len(losses) == 6
    assert all(np.isfinite(losses))


def test_prompts_that_are_not_pooled_alike_are_refused(tmp_path):
    unequal = {"query": "ba ko: ", "document": "ba: "}
    for prompts in (unequal, dict.fromkeys(unequal, "ba: ")):
        encoder = tiny_encoder(context_attention="late", pool_prompt=False, prompts=prompts)
        frozen = replace(CONFIG, train_first_stage=False, steps=1)
        if prompts is not unequal:
            assert train(encoder, training_set(), frozen, tmp_path / "run").steps == 1
            continue
        with pytest.raises(ConfigError, match="does not pool its prompts, which differ"):
            train(encoder, training_set(), frozen, tmp_path / "refused")


def test_a_log_file_gets_lines_of_steps_and_figures_and_no_bar(tmp_path, capsys):
    train(tiny_encoder(), training_set(), CONFIG, tmp_path / "run")
    shown = capsys.readouterr().err
    assert "\r" not in shown
    last = next(line for line in reversed(shown.splitlines()) if line.startswith("Training"))
    assert "6/6" in last
    assert "loss=" in last


class Counted:
    """What a bar was told."""

    def __init__(self, **settings):
        self.told = [settings]

    def set_postfix_str(self, shown, *, refresh):
        assert not refresh, "the next update does"
        self.told.append(shown)

    def update(self, count):
        self.told.append(count)

    def close(self):
        self.told.append("closed")


def test_the_bar_begins_where_a_run_goes_on_and_shows_its_last_figures(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(callbacks, "counter", lambda **settings: bars.append(Counted(**settings)) or bars[-1])
    config = replace(CONFIG, steps=4, eval_steps=4, save_steps=4)
    result = train(tiny_encoder(), training_set(), config, tmp_path / "run", development=development())
    steps = [f"loss={row['loss']:.4g}, accuracy={row['accuracy']:.4g}" for row in result.log if "loss" in row]
    settings = {"total": 4, "label": "Training", "unit": "step"}
    expected = [settings | {"initial": 0}, *(told for shown in steps for told in (1, shown))]
    assert bars[0].told == [*expected, f"eval_ndcg@10={result.best_ndcg_at_10:.4g}", "closed"]
    train(tiny_encoder(), training_set(), config, tmp_path / "run", development=development())
    assert bars[1].told == [settings | {"initial": 4}, "closed"]


def test_what_steps_and_measurements_log_and_what_a_run_keeps(tmp_path):
    config = replace(CONFIG, steps=0, epochs=1, eval_steps=2, save_steps=4, seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        result = train(tiny_encoder(), training_set(steps=5), config, tmp_path / "run", development=development())
    assert torch.initial_seed() == 7
    steps = [row.keys() - {"epoch", "step"} for row in result.log if "loss" in row]
    figures = {"accuracy", "context", "first_stage_gradient", "second_stage_gradient", "gate_mean", "gate_max"}
    trainers = {"loss", "grad_norm", "learning_rate"}
    parts = {f"seconds_{part}" for part in ("batch", "first_pass", "loss", "second_pass")}
    assert steps[0] == figures | trainers | parts
    assert steps[1] == steps[3] == steps[0] | {"seconds_rest"}
    assert steps[2] == steps[4] == steps[1] | {"seconds_measuring"}
    measured = [row for row in result.log if "eval_ndcg@10" in row]
    assert [row["step"] for row in measured] == [2, 4, 5], "also the last one"
    assert all(0 < row["eval_ndcg@10"] <= row["eval_recall@100"] == 1 for row in measured), "it has 20 documents"
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept == {"checkpoint-4", "checkpoint-5", "dataset_embeddings", "settings.json"}
    builder = BatchBuilder(training_set(steps=5), config, tiny_encoder().text_tokenizer())
    stepped = [row for row in result.log if "loss" in row]
    assert [row["context"] for row in stepped] == [builder.build(step).context_documents for step in range(5)]
    for row in stepped:
        assert (row["first_stage_gradient"], row["second_stage_gradient"]) == (0, pytest.approx(row["grad_norm"]))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    encoder = tiny_encoder()
    encoder.open_model().second_stage.gate.data.fill_(torch.nan)
    config = replace(CONFIG, null_rate=0.0)
    with pytest.raises(FloatingPointError, match=r"^the loss of step 0 is nan; lower the learning rate, or use fp32$"):
        train(encoder, training_set(), config, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "change", "kept"),
    [
        ({}, {}, 24),  # those of the one domain that one step has
        ({}, {"train_first_stage": True}, 0),
        ({"normalize_first_stage": False}, {}, 0),
        ({"context_attention": "late", "context_moments": False, "term_statistics": True}, {}, 0),
    ],
)
def test_a_first_stage_embeds_its_context_once_where_it_is_read_and_stays(tmp_path, settings, change, kept):
    encoder, folder = tiny_encoder(**settings), tmp_path / "run" / "dataset_embeddings"
    before = encoder.identity.sha256
    train(encoder, training_set(), replace(CONFIG, steps=1, **change), tmp_path / "run")
    assert folder.exists() == bool(kept)
    if kept:
        vectors = TextVectors.open(folder)
        assert (len(vectors), vectors.manifest.identity) == (kept, before)


@pytest.mark.parametrize("counts", [False, True])
def test_a_step_counts_the_tokens_of_its_context_for_a_model_that_reads_them(tmp_path, monkeypatch, counts):
    encoder = tiny_encoder(context_attention="late", context_moments=not counts, term_statistics=counts)
    config, vocabulary = replace(CONFIG, steps=1, null_rate=0.0), encoder.vocabulary_size if counts else 0
    builder = BatchBuilder(training_set(), config, encoder.text_tokenizer(), None, False, vocabulary)
    expected, seen, step = builder.build(0).frequencies, [], trainer.cached_step
    monkeypatch.setattr(
        trainer, "cached_step", lambda model, batch, *how: seen.append(batch) or step(model, batch, *how)
    )
    train(encoder, training_set(), config, tmp_path / "run")
    assert seen[0].frequencies is expected is None or torch.equal(seen[0].frequencies, expected)
    assert (expected is not None) == counts


def test_vectors_of_the_context_that_are_given_are_taken(tmp_path):
    """They are of another encoder: what is trained on them is what a run whose first stage that one was learns."""
    data, other = training_set(), tiny_encoder(seed=1)
    folder = tmp_path / "given"
    embed_texts([pair.document for pair in data.pairs], FirstStage(other), folder, identity="other")
    given = replace(data, dataset_embeddings=TextVectors.open(folder))
    mixed, encoder = tiny_encoder(), tiny_encoder()
    mixed.open_model().first_stage.load_state_dict(other.open_model().first_stage.state_dict())
    config = replace(CONFIG, steps=2, null_rate=0.0, warmup_steps=0)
    train(mixed, data, config, tmp_path / "mixed")
    train(encoder, given, config, tmp_path / "run")
    assert not (tmp_path / "run" / "dataset_embeddings").exists()
    assert torch.equal(encoder.open_model().second_stage.gate, mixed.open_model().second_stage.gate)


@pytest.mark.parametrize("layout", ["cached", "joint"])
def test_a_first_stage_can_be_trained(tmp_path, layout):
    encoder = tiny_encoder(context_attention=layout)
    before = weights(encoder)
    train(encoder, training_set(), replace(CONFIG, train_first_stage=True, steps=2), tmp_path / "run")
    assert any(name.startswith("first_stage") for name in changed(before, weights(encoder)))


def test_beneath_a_corpus_head_the_encoder_is_trained_and_measured_in_two_parts(tmp_path):
    encoder, data = headed_encoder(), development()
    head, before = encoder.config.corpus_head, weights(encoder)
    found = train(encoder, training_set(), replace(CONFIG, eval_steps=2), tmp_path / "run", development=data)
    assert {name.partition(".")[0] for name in changed(before, weights(encoder))} == {"first_stage", "second_stage"}
    assert encoder.config.corpus_head == head
    encoder.fit_context(data.documents, seed=CONFIG.seed)
    queries = encoder.encode_queries(data.queries, parts="both")
    documents_ = encoder.encode_documents(data.documents, parts="both")
    expected = measure(data, list(search(queries, documents_, 101).positions)).means()["ndcg_at_10"]
    assert found.best_ndcg_at_10 == pytest.approx(expected, abs=1e-9)
    one = evaluate(data, encoder.encode_queries(data.queries), encoder.encode_documents(data.documents))
    assert one.means()["ndcg_at_10"] != pytest.approx(expected, abs=1e-9), "its one vector is another figure"


@pytest.mark.parametrize("family", ["static", "mpnet"])
def test_an_encoder_that_cannot_recompute_its_layers_is_named(family, tmp_path):
    """Any encoder is trained beneath a corpus head, and some have no checkpointing of activations."""
    words = tiny_tokenizer().get_vocab_size()
    settings = tiny_backbone(family, words) if family == "mpnet" else {"model_type": family, "vocab_size": words}
    encoder = tiny_encoder(**HEADED, second_stage=settings | {"hidden_size": 32})
    with pytest.raises(ConfigError, match=r"gradient_checkpointing is true, but \w+ cannot recompute its layers; set"):
        train(encoder, training_set(), replace(CONFIG, gradient_checkpointing=True), tmp_path / "run")


def test_the_first_step_is_a_step_of_adamw_along_the_plain_gradient(tmp_path):
    """One step without warm-up or clipping, by hand: the gradient of plain autograd, AdamW, the rates of the groups."""
    config = replace(
        CONFIG, steps=1, warmup_steps=0, max_grad_norm=0.0, weight_decay=0.0, null_rate=0.0, train_first_stage=True
    )
    data = training_set(negatives=2)
    config = replace(config, hard_negatives=2)
    trained, by_hand = tiny_encoder(), tiny_encoder()
    train(trained, data, config, tmp_path / "run")
    model, tokenizer = by_hand.open_model().requires_grad_(True), by_hand.text_tokenizer()
    tokenizer.tokenizer.enable_truncation(config.train_length)
    batch = BatchBuilder(data, config, tokenizer).build(0)
    direct_step(model, batch, config.temperature, Chunking(tokenizer.pad, 100))
    for name, parameter in model.named_parameters():
        rate = config.learning_rate if ".backbone." in name else config.new_learning_rate
        rate = config.gate_learning_rate if name.endswith("gate") else rate
        if parameter.grad is not None and parameter.numel():
            torch.optim.AdamW([parameter], lr=rate, weight_decay=0.0).step()
    found = weights(trained)
    for name, expected in weights(by_hand).items():
        # Adam's first step is rate * sign(gradient), so where a gradient is rounding noise the signs may differ.
        far = (found[name] - expected).abs() > 1e-5
        assert far.float().mean() < 0.01 or name.endswith("key.bias"), name


def test_four_steps_are_those_of_adamw_with_warm_up_decay_clipping_and_weight_decay(tmp_path):
    """By hand in float64: plain autograd's gradient, the norm, the rates and AdamW's formula written out."""
    config = replace(
        CONFIG, steps=4, warmup_steps=2, max_grad_norm=5.0, weight_decay=0.3, null_rate=0.0, train_first_stage=True
    )
    data, trained, by_hand = training_set(), tiny_encoder(), tiny_encoder()
    trained.open_model().double()
    result = train(trained, data, config, tmp_path / "run")
    model, tokenizer = by_hand.open_model().double().requires_grad_(True), by_hand.text_tokenizer(config.train_length)
    builder, moments, norms = BatchBuilder(data, config, tokenizer), {}, []
    for step, factor in enumerate((0.0, 0.5, 1.0, 0.5)):  # two steps of warm-up, two of decay
        model.zero_grad()
        direct_step(model, builder.build(step), config.temperature, Chunking(tokenizer.pad, 100))
        reached = {name: p for name, p in model.named_parameters() if p.grad is not None and p.numel()}
        norms.append(torch.cat([p.grad.flatten() for p in reached.values()]).norm().item())
        clip = min(1.0, config.max_grad_norm / (norms[-1] + 1e-6))
        for name, parameter in reached.items():
            rate, decay = peak_rate_and_decay(name, parameter, config)
            adamw_by_hand(parameter, parameter.grad * clip, moments.setdefault(name, []), rate * factor, decay)
    assert min(norms) > config.max_grad_norm, "nothing is clipped"
    logged = [row for row in result.log if "grad_norm" in row]
    assert [row["grad_norm"] for row in logged] == pytest.approx(norms)
    both = [np.hypot(row["first_stage_gradient"], row["second_stage_gradient"]) for row in logged]
    assert both == pytest.approx(norms)
    assert min(row["first_stage_gradient"] for row in logged) > 0
    for name, expected in weights(by_hand).items():
        torch.testing.assert_close(
            weights(trained)[name], expected, rtol=0, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("warmup_steps", "rises_for"), [(0, 0), (8, 8), (9, 4), (200, 4)])
def test_the_rate_reaches_what_is_set_in_a_run_shorter_than_its_warm_up(warmup_steps, rises_for, tmp_path):
    arguments = trainer._arguments(replace(CONFIG, warmup_steps=warmup_steps), tmp_path, steps=9, measured=False)
    assert arguments.get_warmup_steps(9) == rises_for


def peak_rate_and_decay(name, parameter, config):
    """Backbone weights at one rate, matrices among them with decay; the gate at its own; the rest is new."""
    if ".backbone." in name:
        return config.learning_rate, config.weight_decay if parameter.ndim == 2 else 0.0
    return config.gate_learning_rate if name == "second_stage.gate" else config.new_learning_rate, 0.0


def adamw_by_hand(parameter, gradient, moments, rate, decay):
    """Algorithm 2 of Loshchilov & Hutter with betas 0.9 and 0.999; `moments` holds m, v and the number of steps."""
    m, v, t = moments or (torch.zeros_like(parameter), torch.zeros_like(parameter), 0)
    m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
    moments[:] = m, v, t
    with torch.no_grad():
        parameter -= rate * decay * parameter
        parameter -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


@pytest.mark.parametrize("train_first_stage", [False, True])
@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_products_and_weights_stay_fp32(tmp_path, precision, expected, train_first_stage):
    """Seen at a layer of both stages, in steps, in measuring, and where a frozen first stage embeds its context."""
    encoder, seen = tiny_encoder(), {"first_stage": Counter(), "second_stage": Counter()}
    first, attention = encoder.open_model().first_stage.backbone.config, set()
    for stage, dtypes in seen.items():
        layer = getattr(encoder.open_model(), stage).backbone.encoder.layer[1].intermediate.dense
        layer.register_forward_hook(lambda _, __, output, dtypes=dtypes: dtypes.update([output.dtype]))
        layer.register_forward_hook(lambda *_: attention.add(first._attn_implementation))
    config = replace(CONFIG, precision=precision, train_first_stage=train_first_stage, eval_steps=2, steps=2)
    train(encoder, training_set(), config, tmp_path / "run", development=development())
    assert [set(dtypes) for dtypes in seen.values()] == [{expected}, {expected}]
    assert ("cde_bfloat16" in attention) == (precision == "bf16")
    assert first._attn_implementation == "sdpa"
    assert {tensor.dtype for tensor in weights(encoder).values() if tensor.is_floating_point()} == {torch.float32}


def test_gradient_checkpointing_computes_every_layer_twice_and_changes_nothing(tmp_path):
    """Counted inside the layers, since a hook of a layer itself does not see it being computed again."""
    forwards, trained = {}, {}
    for checkpointing in (False, True):
        encoder, counted = tiny_encoder(), Counter()
        for name, module in encoder.open_model().named_modules():
            if name.endswith(".intermediate.dense"):
                module.register_forward_pre_hook(lambda *_, n=name, c=counted: c.update([n] * torch.is_grad_enabled()))
        config = replace(CONFIG, train_first_stage=True, gradient_checkpointing=checkpointing, steps=2)
        train(encoder, training_set(), config, tmp_path / f"run-{checkpointing}")
        forwards[checkpointing], trained[checkpointing] = counted, weights(encoder)
    assert len(forwards[False]) == 6, "three layers of either stage"
    assert forwards[True] == {name: 2 * count for name, count in forwards[False].items()}
    for name, tensor in trained[False].items():
        torch.testing.assert_close(trained[True][name], tensor, msg=name)


def test_steps_see_the_same_whatever_ran_before():
    data = training_set(negatives=1)
    config = replace(CONFIG, hard_negatives=1)
    encoder = tiny_encoder()
    builder = BatchBuilder(data, config, encoder.text_tokenizer())
    builder.build(0)
    late, fresh = builder.build(3), BatchBuilder(data, config, encoder.text_tokenizer()).build(3)
    assert late.queries == fresh.queries
    assert late.context == fresh.context
    assert torch.equal(late.dropped, fresh.dropped)
    contexts = [len(builder.build(step).context) for step in range(6)]
    assert 0 in contexts  # null_rate
    assert len(set(contexts)) > 2
    assert all(size == 0 or 2 <= size <= 10 for size in contexts)


def test_processes_share_a_batch_and_its_context():
    data = training_set(negatives=1)
    config = replace(CONFIG, hard_negatives=1)
    tokenizer = tiny_encoder().text_tokenizer()
    whole = BatchBuilder(data, config, tokenizer).build(1)
    parts = [BatchBuilder(data, config, tokenizer, rank=rank, processes=2).build(1) for rank in range(2)]
    assert [*parts[0].queries, *parts[1].queries] == whole.queries
    assert [*parts[0].documents[:4], *parts[1].documents[:4]] == whole.documents[:8]
    assert [*parts[0].documents[4:], *parts[1].documents[4:]] == whole.documents[8:]
    for part in parts:
        assert part.context == whole.context
        assert torch.equal(part.false_negatives, whole.false_negatives)


def test_context_of_the_batch_is_its_own_documents():
    data = training_set()
    tokenizer = tiny_encoder().text_tokenizer()
    config = replace(CONFIG, context_source="batch", null_rate=0.0, context_sizes=(8, 8))
    batch = BatchBuilder(data, config, tokenizer).build(0)
    assert sorted(batch.context) == sorted(batch.documents)


def test_too_few_hard_negatives_are_an_error(tmp_path):
    with pytest.raises(TrainingDataError, match="has 0 hard negatives, the run needs 2"):
        train(tiny_encoder(), training_set(), replace(CONFIG, hard_negatives=2), tmp_path / "run")


def test_best_weights_win(tmp_path):
    config = replace(CONFIG, learning_rate=0.5, eval_steps=1, save_steps=1, max_grad_norm=0.0)
    encoder = tiny_encoder()
    result = train(encoder, training_set(), config, tmp_path / "run", development=development())
    measured = [row["eval_ndcg@10"] for row in result.log if "eval_ndcg@10" in row]
    assert len(measured) == 6
    assert result.best_ndcg_at_10 == max(measured) > measured[-1], "the last weights are the best; nothing is shown"
    assert result.best_step == 1 + measured.index(max(measured))
    kept = encoder.fork()
    kept.fit_context(development().documents)
    with pytest.warns(TruncationWarning):
        vectors = kept.encode_queries(development().queries), kept.encode_documents(development().documents)
    assert evaluate(development(), *vectors).means()["ndcg_at_10"] == pytest.approx(result.best_ndcg_at_10, abs=1e-6)
    unmeasured = train(tiny_encoder(), training_set(), config, tmp_path / "run")
    assert (unmeasured.steps, unmeasured.best_step, unmeasured.best_ndcg_at_10) == (6, None, None)


def measurements(monkeypatch, tenths):
    """Let the next measurements find these nDCG@10, in tenths."""
    means = iter([{"ndcg_at_10": value / 10, "recall_at_100": 1.0} for value in tenths])
    monkeypatch.setattr(trainer, "measure", lambda *_: SimpleNamespace(means=lambda: next(means)))


def saved_steps(run):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("patience", "measured", "last", "best", "kept"),
    [
        (0, (5, 6, 6, 5, 4, 5), 6, 2, [2, 5, 6]),
        (1, (5, 6, 6, 5, 7, 5), 3, 2, [1, 2, 3]),  # as good is not better
        (2, (5, 6, 6, 5, 7, 5), 4, 2, [2, 3, 4]),
        (3, (5, 6, 6, 5, 7, 5), 6, 5, [4, 5, 6]),
        (2, (5, 4, 6, 4, 5, 9), 5, 3, [3, 4, 5]),  # a better one starts the count anew
    ],
)
def test_patience_ends_the_run_after_so_many_measurements_without_a_better_one(
    tmp_path, monkeypatch, patience, measured, last, best, kept
):
    measurements(monkeypatch, measured)
    config = replace(CONFIG, eval_steps=1, save_steps=1, patience=patience)
    result = train(tiny_encoder(), training_set(), config, tmp_path / "run", development=development())
    assert (result.steps, result.best_step) == (last, best)
    assert saved_steps(tmp_path / "run") == kept, "the best and the newest, three in all"


def test_a_resumed_run_has_the_patience_that_was_left(tmp_path, monkeypatch):
    config = replace(CONFIG, eval_steps=1, save_steps=1, patience=2)
    for measured in ((5, 4, 3), (3, 2, 1)):
        measurements(monkeypatch, measured)
        result = train(tiny_encoder(), training_set(), config, tmp_path / "run", development=development())
        assert (result.steps, saved_steps(tmp_path / "run")) == (3, [1, 2, 3])
        shutil.rmtree(tmp_path / "run" / "checkpoint-3")


def test_a_run_that_was_moved_when_all_steps_were_done_finds_its_best_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, first, second = replace(CONFIG, eval_steps=1, save_steps=1), tiny_encoder(), tiny_encoder()
    measurements(monkeypatch, (6, 5, 4, 3, 2, 1))
    train(first, training_set(), config, Path("run"), development=development())
    Path("run").rename("moved")
    assert train(second, training_set(), config, tmp_path / "moved", development=development()).best_step == 1
    assert_same_weights(weights(first), weights(second))


@pytest.mark.parametrize(
    ("model", "settings"),
    [({}, {}), ({"share_word_embeddings": True}, {"train_first_stage": True}), (COUNTING, {})],
    ids=["two encoders", "shared words", "one encoder, and a prior still to be counted"],
)
def test_interpolation_stops_on_the_way(tmp_path, model, settings):
    """Weights that both stages share go as far as others; the prior is counted, not trained, and stays whole."""
    start, whole, quarter = (tiny_encoder(**model) for _ in range(3))
    for encoder in (start, whole, quarter):
        if model == COUNTING:
            encoder.open_model().second_stage.term_head.log_prior.fill_(-7)
    config = replace(CONFIG, **settings)
    train(whole, training_set(), config, tmp_path / "whole")
    train(quarter, training_set(), replace(config, interpolation=0.25), tmp_path / "quarter")
    prior = "second_stage.term_head.log_prior"
    for name, tensor in weights(quarter).items():
        share = 1 if name == prior else 0.25
        expected = (1 - share) * weights(start)[name] + share * weights(whole)[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert changed(weights(start), weights(whole)) >= ({prior} if model == COUNTING else set())


def test_a_finished_run_is_not_run_again(tmp_path):
    first, second = tiny_encoder(), tiny_encoder()
    train(first, training_set(), CONFIG, tmp_path / "run")
    stamp = (tmp_path / "run" / "checkpoint-6" / COMPLETE_NAME).stat().st_mtime_ns
    train(second, training_set(), CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-6" / COMPLETE_NAME).stat().st_mtime_ns == stamp
    assert_same_weights(weights(first), weights(second))


def test_a_state_without_its_seal_is_gone_and_a_damaged_one_passed_over(tmp_path):
    whole = tiny_encoder()
    train(whole, training_set(), CONFIG, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    (tmp_path / "again" / "checkpoint-6" / COMPLETE_NAME).unlink()
    assert newest_whole_state(tmp_path / "again").name == "checkpoint-4"
    assert not (tmp_path / "again" / "checkpoint-6").exists()
    with open(tmp_path / "again" / "checkpoint-4" / "optimizer.pt", "r+b") as stream:
        stream.seek(100)
        stream.write(b"damage")
    resumed = tiny_encoder()
    with pytest.warns(UserWarning, match=r"checkpoint-4 is damaged \(optimizer\.pt has changed"):
        train(resumed, training_set(), CONFIG, tmp_path / "again")
    assert_same_weights(weights(whole), weights(resumed))


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_first_process_marks_and_removes(tmp_path, monkeypatch, process):
    monkeypatch.setenv("RANK", str(process))
    for step, files in ((2, "{}"), (4, json.dumps({"gone": "0"})), (6, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if files:
            (tmp_path / f"checkpoint-{step}" / COMPLETE_NAME).write_text(files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert newest_whole_state(tmp_path) == tmp_path / "checkpoint-2"
    claim(tmp_path, CONFIG, training_set().batches, "start")
    left = {path.name for path in tmp_path.iterdir()}
    if process == 0:
        assert left == {"checkpoint-2", "settings.json"}
        assert ["checkpoint-4 is damaged (gone is missing)" in str(one.message) for one in caught] == [True]
    else:
        assert left == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
        assert caught == []


def test_a_folder_of_another_run_is_refused(tmp_path):
    config = replace(CONFIG, steps=1)
    train(tiny_encoder(), training_set(), config, tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"other learning_rate \(learning_rate there is 0\.001, here 0\.002\)"):
        train(tiny_encoder(), training_set(), replace(config, learning_rate=2e-3), tmp_path / "run")
    with pytest.raises(ArtifactError, match="other start"):
        train(tiny_encoder(seed=1), training_set(), config, tmp_path / "run")


def start(folder: Path, *prefix: str) -> subprocess.Popen:
    """Start the run of `__main__` below in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, *prefix, "-m", "tests.unit.test_trainer", str(folder)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def test_killed_at_any_moment_the_weights_are_those_of_an_undisturbed_run(tmp_path):
    """SIGKILL twice, at moments that fall where they may around a save; the last start finishes."""
    undisturbed = tiny_encoder()
    config = replace(CONFIG, eval_steps=2)
    train(undisturbed, training_set(), config, tmp_path / "undisturbed", development=development())
    for states in (0, 1):
        process = start(tmp_path / "killed")
        deadline = time.monotonic() + 300
        while len(list((tmp_path / "killed").glob("checkpoint-*"))) <= states and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    resumed = tiny_encoder()
    result = train(resumed, training_set(), config, tmp_path / "killed", development=development())
    assert result.steps == 6
    assert_same_weights(weights(undisturbed), weights(resumed))


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"lora_rank": 2}, {"train_first_stage": True}], ids=str)
def test_resumed_runs_of_every_kind_end_with_the_same_weights(tmp_path, settings):
    whole, resumed = tiny_encoder(), tiny_encoder()
    config = replace(CONFIG, **settings)
    train(whole, training_set(), config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    train(resumed, training_set(), config, tmp_path / "run")
    assert_same_weights(weights(whole), weights(resumed))


def test_two_processes_train_the_weights_of_one(tmp_path):
    """``torchrun`` with two Gloo processes: the same batches, the same context, the same steps."""
    alone = tiny_encoder()
    train(alone, training_set(), replace(CONFIG, eval_steps=2), tmp_path / "alone", development=development())
    process = start(tmp_path / "together", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert process.wait(300) == 0
    together = load_file(tmp_path / "together" / "checkpoint-6" / "model.safetensors")
    reference = load_file(tmp_path / "alone" / "checkpoint-6" / "model.safetensors")
    assert together.keys() == reference.keys()
    for name, tensor in reference.items():
        # Adam divides by the gradient's size, so where it is rounding noise (a bias of all keys) weights may differ.
        far = (together[name] - tensor).abs() > 1e-4
        assert far.float().mean() < 0.01 or name.endswith("key.bias"), name
    state = json.loads((tmp_path / "together" / "checkpoint-6" / "trainer_state.json").read_text())
    expected = json.loads((tmp_path / "alone" / "checkpoint-6" / "trainer_state.json").read_text())
    losses = [[row["loss"] for row in log["log_history"] if "loss" in row] for log in (state, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_tensorboard_holds_what_was_logged(tmp_path):
    result = train(tiny_encoder(), training_set(), replace(CONFIG, report_to=("tensorboard",)), tmp_path / "run")
    (file,) = (tmp_path / "run" / "tensorboard").rglob("events.*")
    events = EventAccumulator(str(file)).Reload()
    for name in ("loss", "accuracy", "context", "gate_mean", "grad_norm", "learning_rate"):
        written = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert written == pytest.approx({row["step"]: row[name] for row in result.log if "loss" in row}), name
        assert len(written) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, expected more than 0"),
        ({"batch_size": 1}, "batch_size is 1, expected at least 2"),
        ({"context_source": "web"}, "context_source is 'web', expected 'batch' or 'domain'"),
        ({"context_sizes": (5, 2)}, r"context_sizes is \[5, 2\]"),
        ({"steps": 0, "epochs": 0}, "steps and epochs are both 0"),
        (
            {"patience": 2},
            "patience is 2 but eval_steps is 0, so nothing is measured; set eval_steps, or patience to 0",
        ),
        ({"lora_rank": 4, "train_first_stage": True}, "set train_first_stage to false"),
        ({"lora_rank": 4, "interpolation": 0.5}, "lower lora_alpha"),
        ({"eval_steps": 3, "save_steps": 4}, "expected a multiple of eval_steps, which is 3"),
        ({"null_rate": 2.0, "precision": "fp8"}, "null_rate is 2.0.*precision is 'fp8'"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_settings_of_a_run_are_written(tmp_path):
    train(tiny_encoder(), training_set(), replace(CONFIG, steps=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["temperature"] == CONFIG.temperature


if __name__ == "__main__":
    train(tiny_encoder(), training_set(), replace(CONFIG, eval_steps=2), Path(sys.argv[1]), development=development())
