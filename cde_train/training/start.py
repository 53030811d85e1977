"""Build the model that training starts from: two stages of one plain encoder, or a CDE checkpoint."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel

from cde_retriever.checkpoint.folder import CONFIG_NAME, TOKENIZER_NAME, find_checkpoint, read_tokenizer
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model.two_stage import TwoStageModel
from cde_train.training.config import StartConfig


def read_plain_encoder(folder: str | os.PathLike[str]) -> PreTrainedModel:
    """Read an encoder strictly: `transformers` fills missing weights with random numbers and only reports it.

    Masked language models name their weights ``bert.…`` (nomic-bert-2048 among them); both ways are read.

    Raises:
        CheckpointError: if weights are missing or of another shape; names some.
    """
    plain: PreTrainedModel
    try:
        plain, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, key_mapping={r"^bert\.": ""}, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot read the plain encoder {folder}: {error!s:.300}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of its {plain.config.model_type} encoder, such as {missing[0]}; "
            "is it the whole checkpoint, under the names transformers uses?"
        )
    return plain


def start_from(folder: str | os.PathLike[str], start: StartConfig, seed: int = 0) -> ContextualEncoder:
    """Build a two-stage model whose stages both are the plain encoder in a folder.

    The stages share their word embeddings, or the whole encoder. What a plain encoder does not have (gate, projection,
    prompt, null context, heads) starts as `SecondStage` says, so that the model begins near the plain encoder.

    Args:
        folder: A `transformers` or sentence-transformers folder with mean pooling.
        start: What to build.
        seed: Seed of what starts random.

    Raises:
        CheckpointError: if the folder does not hold every weight of the encoder, or no tokenizer.
    """
    torch.manual_seed(seed)
    plain = read_plain_encoder(folder)
    settings = {
        k: v
        for k, v in plain.config.to_diff_dict().items()
        if k not in ("architectures", "dtype", "transformers_version")
    }
    settings |= {"model_type": plain.config.model_type, "hidden_size": plain.config.hidden_size}
    model = TwoStageModel(start.model_config(settings))
    weights = {k: v for k, v in plain.state_dict().items() if not k.startswith("pooler.")}
    model.first_stage.backbone.load_state_dict(weights)
    model.second_stage.backbone.load_state_dict(weights)
    model.second_stage.enter_like_words()
    return ContextualEncoder.from_model(model, read_tokenizer(Path(folder) / TOKENIZER_NAME))


def open_start(base: str | None, start: StartConfig, seed: int = 0) -> ContextualEncoder:
    """Return the model to start from, under the start's name.

    Args:
        base: A plain encoder or a CDE checkpoint, as folder or Hub id; None for the bundled checkpoint.
        start: What to build of a plain encoder; may differ from a CDE checkpoint only where it stands at its default.
        seed: Seed of what starts random.

    Raises:
        CheckpointError: if the base cannot be found or read.
        ConfigError: if settings differ from those of a CDE checkpoint; names each.
    """
    folder, _ = find_checkpoint(base)
    if not is_cde_checkpoint(folder):
        return start_from(folder, start, seed)
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu")
    faults = []
    for f in fields(StartConfig):
        asked, there, default = (getattr(of, f.name) for of in (start, encoder.config, StartConfig("x")))
        if f.name != "name" and asked not in (there, default):
            faults.append(f"model.{f.name} is {asked!r}, but the checkpoint {folder.name} has {there!r}")
    if faults:
        raise ConfigError("; ".join(faults) + "; leave it out, or start from a plain encoder")
    encoder.model.config = replace(encoder.config, name=start.name)
    return encoder


def is_cde_checkpoint(folder: Path) -> bool:
    """Tell a CDE checkpoint from a plain encoder."""
    file = folder / CONFIG_NAME
    return file.is_file() and "cde_format_version" in json.loads(file.read_text(encoding="utf-8"))
