"""Checkpoints: strict reading, atomic writing, the Hub's folder layout."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cde_retriever import CheckpointError, ContextualEncoder
from cde_retriever.checkpoint.folder import find_checkpoint, hash_checkpoint
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig
from tests.tiny import FAMILIES, documents, tiny_encoder


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A checkpoint to damage."""
    return shutil.copytree(checkpoint, tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [True, False])
def test_round_trip_keeps_vectors_and_identity(tmp_path, family: str, shared: bool) -> None:
    encoder = tiny_encoder(family, share_word_embeddings=shared, output_head="residual_mlp")
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "model"), device="cpu")
    assert again.identity == encoder.identity
    for e in (encoder, again):
        e.fit_context(documents(40))
    np.testing.assert_array_equal(again.encode_documents(documents(7)), encoder.encode_documents(documents(7)))
    third = again.save_pretrained(tmp_path / "third")
    assert hash_checkpoint(third) == encoder.identity.sha256


def test_half_precision_is_half_the_size_and_keeps_its_identity(tmp_path) -> None:
    encoder = tiny_encoder()
    full = encoder.save_pretrained(tmp_path / "full") / "model.safetensors"
    half = encoder.save_pretrained(tmp_path / "half", dtype=torch.float16) / "model.safetensors"
    assert half.stat().st_size < 0.55 * full.stat().st_size
    loaded = ContextualEncoder.from_pretrained(tmp_path / "half", device="cpu")
    assert next(loaded.open_model().parameters()).dtype == torch.float32
    assert hash_checkpoint(loaded.save_pretrained(tmp_path / "again")) == loaded.identity.sha256


def test_files_are_readable_as_the_umask_lets(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        folder = tiny_encoder().save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640, "tokenizer.json": 0o640}


def test_shared_word_embeddings_are_stored_once_and_stay_shared(tmp_path) -> None:
    folder = tiny_encoder(share_word_embeddings=True).save_pretrained(tmp_path / "model")
    names = [name for name in load_file(folder / "model.safetensors") if "word_embeddings" in name]
    assert names == ["second_stage.backbone.embeddings.word_embeddings.weight"]
    model = ContextualEncoder.from_pretrained(folder, device="cpu").open_model()
    stages = model.first_stage, model.second_stage
    assert stages[0].backbone.get_input_embeddings().weight is stages[1].backbone.get_input_embeddings().weight


def test_identity_changes_with_weights_configuration_and_tokenizer_but_not_with_the_name(folder) -> None:
    before = hash_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"name": "another"}))
    assert hash_checkpoint(folder) == before
    (folder / "config.json").write_text(json.dumps(config | {"max_length": 32}))
    assert hash_checkpoint(folder) != before


def test_missing_and_unexpected_tensors_are_named(folder) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["second_stage.gaet"] = weights.pop("second_stage.gate")
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"missing second_stage\.gate; unexpected second_stage\.gaet"):
        ContextualEncoder.from_pretrained(folder)


def test_wrong_shapes_are_named(folder) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["second_stage.gate"] = torch.zeros(1, 4)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"second_stage\.gate is \(1, 4\), expected \(3, 4\)"):
        ContextualEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(folder, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        ContextualEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_files_are_named(folder, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=f"^{folder / name} is .*; copy it again"):
        ContextualEncoder.from_pretrained(folder)


def test_overwriting_is_all_or_nothing_and_keeps_other_files(folder, monkeypatch) -> None:
    (folder / "README.md").write_text("card")
    before = hash_checkpoint(folder)
    other = tiny_encoder(seed=7)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("cde_retriever.checkpoint.checkpoint.save", full)
    with pytest.raises(OSError, match="No space left"):
        other.save_pretrained(folder)
    assert hash_checkpoint(folder) == before
    monkeypatch.undo()
    other.save_pretrained(folder)
    assert hash_checkpoint(folder) == other.identity.sha256
    assert (folder / "README.md").read_text() == "card"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_hub_ids_are_fetched_and_pinned_to_a_commit(folder, tmp_path, monkeypatch) -> None:
    snapshot = shutil.copytree(folder, tmp_path / "cache" / "0123abcd")
    asked = []

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str], **_) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    encoder = ContextualEncoder.from_pretrained("organisation/model", revision="v1", device="cpu")
    assert [(name, revision) for name, revision, _ in asked] == [
        ("organisation/model", "v1"),
        ("organisation/model", "0123abcd"),
    ]
    assert "config.json" in asked[0][2]
    assert asked[1][2] == ["*.json", "*.safetensors", "*.txt", "*.model"]
    assert encoder.identity.revision == "0123abcd"
    assert encoder.identity.sha256 == hash_checkpoint(folder)


def test_no_name_means_the_bundled_checkpoint() -> None:
    folder, revision = find_checkpoint(None)
    assert folder.name == "cde-minilm-l6-v4"
    assert revision is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_attention": "early"}, "context_attention is 'early', expected one of cached, joint, late"),
        ({"context_size": 0}, "context_size is 0, expected at least 1"),
        ({"positions": "sequence"}, "positions is 'sequence', which needs context_attention 'joint'"),
        ({"contxt_size": 4}, "unknown key 'contxt_size' .* did you mean 'context_size'"),
        ({"prompts": {"query": ""}}, r"prompts has the keys \['query'\]"),
        ({"cde_format_version": 9}, "cde_format_version is 9"),
        ({"second_stage": {"model_type": "gpt2", "hidden_size": 24}}, "no bidirectional encoder"),
        ({"second_stage": {"model_type": "nonsense", "hidden_size": 32}}, "'nonsense'"),
        ({"second_stage": {"hidden_size": 32}}, "second_stage has no model_type"),
        ({"context_projection": False, "first_stage": {"model_type": "bert", "hidden_size": 8}}, "8 and 32 wide"),
    ],
)
def test_contradicting_configurations_are_refused(folder, change: dict, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        ContextualEncoder.from_pretrained(folder)


def test_all_faults_are_reported_at_once() -> None:
    backbone = {"model_type": "bert", "hidden_size": 8}
    with pytest.raises(ConfigError, match=r"context_size is 0.*max_length is 1"):
        ModelConfig(name="x", first_stage=backbone, second_stage=backbone, context_size=0, max_length=1)


def test_bundled_checkpoints_have_names_unless_a_folder_has_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("cde-minilm-l6-v4") == find_checkpoint(None)
    assert hash_checkpoint(find_checkpoint("cde-minilm-l6-v1")[0]).startswith("82d24cb105bb")
    (tmp_path / "cde-minilm-l6-v1").mkdir()
    assert find_checkpoint("cde-minilm-l6-v1")[0].resolve() == tmp_path / "cde-minilm-l6-v1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nope", "there is no folder './nope', which is no id of the Hub either"),
        ("../models/nope", "there is no folder"),
        ("/nowhere/nope", "there is no folder"),
        ("a/b/c", "there is no folder"),
        ("", "there is no folder ''"),
        ("~nobody-of-this-name/model", "is no name of a folder"),
        ("x" * 5000, "is no name of a folder .*File name too long"),
        ("a\0b", "there is no folder"),
        ("file", "file is a file; give the folder"),
    ],
)
def test_what_is_neither_folder_nor_hub_id_is_looked_up_nowhere(name, message, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=message) as raised:
        ContextualEncoder.from_pretrained(name)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:9", "meta", "cpu:x", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device, checkpoint) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match=f"device is '{device}', which PyTorch .* cannot use here .*fastest there"):
        ContextualEncoder.from_pretrained(checkpoint, device=device)


def change_config(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("stage", ["first_stage", "second_stage"])
@pytest.mark.parametrize("value", [10**7, 10**9, 10**12, 10**30])
@pytest.mark.parametrize("name", ["vocab_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"])
def test_sizes_beyond_the_weights_are_refused_before_memory_is_taken(folder, stage, name, value) -> None:
    change_config(folder, lambda config: config[stage].update({name: value}))
    with pytest.raises(CheckpointError, match=rf"{stage}\.{name} is {value}, but .* holds \d+ numbers in \d+ tensors"):
        ContextualEncoder.from_pretrained(folder)


def test_prompt_tokens_beyond_the_weights_are_refused(folder) -> None:
    change_config(folder, lambda config: config.update(prompt_tokens=10**12))
    with pytest.raises(CheckpointError, match="prompt_tokens is 1000000000000, but"):
        ContextualEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": -8},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"vocab_size": None},
        {"vocab_size": -1},
        {"num_hidden_layers": 1.5},
        {"hidden_act": "no such"},
    ],
)
def test_a_backbone_that_cannot_be_built_is_refused(folder, change) -> None:
    change_config(folder, lambda config: [config[stage].update(change) for stage in ("first_stage", "second_stage")])
    with pytest.raises(CheckpointError, match=str(folder)):
        ContextualEncoder.from_pretrained(folder)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [300, 900, 5_000, 200_000])
@pytest.mark.parametrize("place", ["everything", "prompts", "second_stage", "name"])
def test_configurations_nested_too_deep_are_refused(folder, depth, place) -> None:
    config = json.loads((folder / "config.json").read_text())
    values = config["second_stage"] if place == "second_stage" else config
    values["hidden_act" if place == "second_stage" else place] = "HERE"
    text = nested(depth) if place == "everything" else json.dumps(config).replace('"HERE"', nested(depth))
    (folder / "config.json").write_text(text)
    for backend in ("torch", "onnx"):
        with pytest.raises(CheckpointError, match=str(folder)):
            ContextualEncoder.from_pretrained(folder, backend=backend)


def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_refused(folder) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    word = next(word for word in tokenizer["model"]["vocab"] if word.isalpha())
    tokenizer["model"]["vocab"][word] = 10**6
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"gives token ids up to 1000000, but the model knows \d+ tokens"):
        ContextualEncoder.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_hash_of_a_model_is_that_of_its_folder_without_writing_one(family, dtype, tmp_path, monkeypatch) -> None:
    encoder = tiny_encoder(family)
    folder = encoder.save_pretrained(tmp_path / "model", dtype=dtype)
    expected = hash_checkpoint(folder)
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: pytest.fail("opened a file"))
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_, **__: pytest.fail("made a folder"))
    again = ContextualEncoder.from_model(encoder.open_model(), encoder.tokenizer, stored_dtype=dtype)
    assert again.identity.sha256 == expected
