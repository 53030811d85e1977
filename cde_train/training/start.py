"""Build the model that training starts from: two stages of one plain encoder, or a CDE checkpoint."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cde_retriever.checkpoint.folder import find_checkpoint
from cde_retriever.checkpoint.kinds import CDE, TRANSFORMERS, kind_of
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.checkpoint.sentence_transformers import read_plain_encoder
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError
from cde_retriever.model.two_stage import TwoStageModel
from cde_train.training.config import HEAD, StartConfig

TWO_ENCODERS = "has another encoder for queries than for documents; training knows one for both"
LENGTHS = "compares vectors by inner product, and training makes cosines; name another model"


def start_from(folder: str | os.PathLike[str], start: StartConfig, seed: int = 0) -> ContextualEncoder:
    """Build a two-stage model whose stages both are the plain encoder in a folder, or put a corpus head around it.

    The stages share their word embeddings, or the whole encoder. What a plain encoder does not have (gate, projection,
    prompt, null context, heads) starts as `SecondStage` says, so that the model begins near the plain encoder.

    Args:
        folder: A sentence-transformers model, or an encoder of `transformers`, which is pooled by the mean.
        start: What to build.
        seed: Seed of what starts random.

    Raises:
        CheckpointError: if the folder does not hold every weight of the encoder, or no tokenizer.
        ConfigError: if the encoder pools in a way, or has layers, that the layout has no place for.
    """
    torch.manual_seed(seed)
    folder = Path(folder)
    prompts = start.prompts if any(start.prompts.values()) else None
    plain = read_plain_encoder(folder, replace(reading_of(folder), max_length=start.max_length, prompts=prompts))
    if plain.queries is not None:
        raise ConfigError(f"{folder} {TWO_ENCODERS}")
    if plain.keeps_lengths:
        raise ConfigError(f"{folder} {LENGTHS}")
    config = replace(
        start.model_config(plain.settings),
        prompts=plain.prompts,
        pooling=plain.pooling,
        pool_prompt=plain.pool_prompt,
        projection=tuple(_projection(plain.projection, start)),
    )
    model = TwoStageModel(config)
    for stage in (model.first_stage, model.second_stage):
        stage.backbone.load_state_dict(plain.backbone.state_dict())
        stage.projection.load_state_dict(plain.weights)
    model.second_stage.enter_like_words()
    return ContextualEncoder.from_model(model, plain.tokenizer)


def reading_of(folder: Path) -> Reading:
    """Return how training reads a model: an encoder of `transformers`, which does not say, is pooled by the mean."""
    return Reading(pooling="mean" if kind_of(folder) == TRANSFORMERS else None)


def _projection(layers: Sequence[Mapping[str, Any]], start: StartConfig) -> Sequence[Mapping[str, Any]]:
    """Return the layers after pooling, without a last normalisation where the layout brings one of its own."""
    if start.context_attention not in ("late", HEAD) and layers and layers[-1]["kind"] == "normalize":
        return layers[:-1]
    return layers


def open_start(base: str | None, start: StartConfig, seed: int = 0) -> ContextualEncoder:
    """Return the model to start from, under the start's name.

    Args:
        base: A plain encoder or a CDE checkpoint, as folder or Hub id; None for the bundled checkpoint.
        start: What to build of a plain encoder; a CDE checkpoint takes the name alone.
        seed: Seed of what starts random.

    Raises:
        CheckpointError: if the base cannot be found or read.
        ConfigError: if a plain encoder has what the layout has no place for.
    """
    folder, _ = find_checkpoint(base)
    if kind_of(folder) != CDE:
        return start_from(folder, start, seed)
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu")
    if encoder.config.query_encoder is not None:
        raise ConfigError(f"{folder} {TWO_ENCODERS}")
    if encoder.config.keeps_lengths:
        raise ConfigError(f"{folder} {LENGTHS}")
    encoder.open_model().config = replace(encoder.config, name=start.name)
    return encoder
