"""The first training loop: data, start, resume."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cde_retriever import CheckpointError, ContextualEncoder
from cde_retriever.checkpoint import hash_checkpoint
from cde_train.data import by_domain, read_pairs
from cde_train.initialization import StartConfig, start_from
from cde_train.training import TrainConfig, Trainer
from tests.tiny import FAMILIES, documents, tiny_backbone, tiny_tokenizer


def plain_encoder(folder: Path, family: str = "bert") -> Path:
    """Write a tiny plain encoder as `transformers` does."""
    torch.manual_seed(0)
    settings = tiny_backbone(family, tiny_tokenizer().get_vocab_size())
    AutoModel.from_config(AutoConfig.for_model(**settings)).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """A run of six steps over two domains."""
    for domain, seed in (("first", 1), ("second", 2)):
        rows = [
            {"query": text.split(maxsplit=2)[-1], "document": text, "domain": domain}
            for text in documents(30, seed=seed)
        ]
        (tmp_path / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        pairs=str(tmp_path),
        base=str(plain_encoder(tmp_path / "base")),
        output=str(tmp_path / "run"),
        name="tiny",
        steps=6,
        batch_size=8,
        train_length=24,
        max_length=32,
        context_sizes=(2, 12),
        warmup=2,
        save_every=2,
        bf16=False,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_start_is_two_stages_of_the_plain_encoder(tmp_path, family: str) -> None:
    encoder = start_from(plain_encoder(tmp_path / "base", family), StartConfig("x", max_length=48))
    plain = AutoModel.from_pretrained(tmp_path / "base").eval()
    texts, rows = documents(5), []
    with torch.no_grad():
        for ids in encoder._texts.tokenize(texts, "document").ids:
            pooled = plain(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
            rows.append((pooled / pooled.norm()).numpy())
    np.testing.assert_allclose(encoder.encode_first_stage(texts), np.stack(rows), atol=1e-5)
    encoder.model.second_stage.gate.data.fill_(-torch.inf)
    encoder.fit_context(documents(20))
    np.testing.assert_allclose(encoder.encode_documents(texts), np.stack(rows), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_named_as_in_a_masked_language_model_are_read(tmp_path, family: str) -> None:
    """The ``bert.`` prefix, under which `transformers` alone would start NomicBERT from random numbers."""
    folder = plain_encoder(tmp_path / "base", family)
    expected = start_from(folder, StartConfig("x")).encode_first_stage(documents(3))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {f"bert.{name}": value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    np.testing.assert_array_equal(start_from(folder, StartConfig("x")).encode_first_stage(documents(3)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_weights_are_an_error_not_random_numbers(tmp_path, family: str) -> None:
    folder = plain_encoder(tmp_path / "base", family)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "embeddings" in name)
    weights["renamed"] = weights.pop(lost)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks 1 weights of its {family} encoder, such as embeddings"):
        start_from(folder, StartConfig("x"))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_stage_ever_runs_flash_attention(tmp_path, family: str) -> None:
    """With repeated position ids it would take a batch of one for packed sequences and cut the context off."""
    for layout, second in (("cached", "cde_context"), ("joint", "sdpa")):
        model = start_from(plain_encoder(tmp_path / layout, family), StartConfig("x", context_attention=layout)).model
        assert model.first_stage.backbone.config._attn_implementation == "sdpa"
        assert model.second_stage.backbone.config._attn_implementation == second


@pytest.mark.parametrize("family", FAMILIES)
def test_a_context_document_enters_without_the_offset_of_position_zero(tmp_path, family: str) -> None:
    """What the first layer normalises is the document's vector itself."""
    encoder = start_from(plain_encoder(tmp_path / "base", family), StartConfig("x"))
    second, seen = encoder.model.second_stage, []
    embeddings = second.backbone.embeddings
    norm = embeddings.norm if family == "modernbert" else embeddings.LayerNorm
    handle = norm.register_forward_hook(lambda *args: seen.append(args[1][0]))
    vectors = torch.randn(3, 32)
    with torch.no_grad():
        second.prepare(vectors)
    handle.remove()
    torch.testing.assert_close(seen[0][0], vectors, atol=1e-5, rtol=0)


def test_training_changes_the_second_stage_only_and_loads(config) -> None:
    start = start_from(config.base, StartConfig("tiny", max_length=32))
    encoder = ContextualEncoder.from_pretrained(Trainer(config).run(), device="cpu")
    before, after = (dict(e.model.named_parameters()) for e in (start, encoder))
    for name in before:
        moved = (before[name].half().float() - after[name]).abs().max().item() if before[name].numel() else 0.0
        frozen = name.startswith("first_stage") or "word_embeddings" in name
        if frozen:
            assert moved == 0, name
        elif name.endswith(("gate", "null_context", "context_projection.weight", "layer.0.output.dense.weight")):
            assert moved > 0, name
    encoder.fit_context(documents(20))
    assert encoder.encode_queries(["a"]).shape == (1, 32)


def test_interpolation_is_the_way_from_start_to_trained(config, tmp_path) -> None:
    weights = {}
    for share in (0.0, 0.5, 1.0):
        folder = Trainer(replace(config, output=str(tmp_path / f"run{share}"), interpolation=share)).run()
        weights[share] = load_file(folder / "model.safetensors")
    start = start_from(config.base, StartConfig("tiny", max_length=32)).model.stored_state()
    moved = 0.0
    for name, middle in weights[0.5].items():
        torch.testing.assert_close(weights[0.0][name], start[name].half(), atol=0, rtol=0)
        mean = (weights[0.0][name].float() + weights[1.0][name].float()) / 2
        torch.testing.assert_close(middle.float(), mean, atol=1e-3, rtol=1e-3)
        moved += (weights[1.0][name].float() - mean).abs().sum().item()
    assert moved > 0


def test_killed_and_resumed_run_equals_an_uninterrupted_one(config, tmp_path) -> None:
    whole = Trainer(replace(config, output=str(tmp_path / "whole"))).run()
    trainer = Trainer(config)
    vectors = trainer.dataset_embeddings()
    trainer._resume()
    for _ in range(4):
        trainer.train_step(vectors)
        if trainer.step == 2:
            trainer._save()
    resumed = Trainer(config)
    folder = resumed.run()
    assert hash_checkpoint(folder) == hash_checkpoint(whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [3, 4, 5, 6]


def test_state_of_other_settings_is_refused(config) -> None:
    Trainer(config).run()
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        Trainer(replace(config, temperature=0.1)).run()


def test_unknown_domain_is_refused(config) -> None:
    with pytest.raises(ValueError, match=r"unknown domains \['third'\]; there are \['first', 'second'\]"):
        Trainer(replace(config, leave_out=("third",)))


def test_steps_draw_one_domain_and_the_context_sizes_asked_for(config) -> None:
    trainer = Trainer(replace(config, steps=40, null_rate=0.3))
    vectors = trainer.dataset_embeddings()
    records = [trainer.train_step(vectors) for _ in range(40)]
    sizes = {record["context"] for record in records}
    assert {record["domain"] for record in records} == {"first", "second"}
    assert 0 in sizes
    assert sizes - {0} <= set(range(2, 13))


def test_read_pairs_reads_files_and_folders(tmp_path) -> None:
    row = {"query": "q", "document": "d"}
    with gzip.open(tmp_path / "zipped.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    (tmp_path / "plain.jsonl").write_text(json.dumps(row | {"domain": "other"}) + "\n")
    assert list(by_domain(read_pairs(tmp_path))) == ["other", "zipped"]
    assert read_pairs(tmp_path / "zipped.jsonl.gz")[0].document == "d"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not a pair"),
        ('{"query": "q"}', "line 2: not a pair"),
        ('{"query": "q", "document": 3}', "line 2: not a pair"),
        ('{"query": "q", "document": " "}', "line 2: query or document is empty"),
    ],
)
def test_bad_lines_are_named(tmp_path, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "document": "d"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"bad\.jsonl, {message}"):
        read_pairs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.jsonl"):
        read_pairs(tmp_path / "empty")
