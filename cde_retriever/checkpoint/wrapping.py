"""Put a head that knows the corpus on a plain encoder, in memory: a `late` model in which nothing is trained."""

from dataclasses import replace
from pathlib import Path

import torch

from cde_retriever.checkpoint.checkpoint import Checkpoint, hash_model
from cde_retriever.checkpoint.finite import refuse_unreal
from cde_retriever.checkpoint.lengths import keep_lengths
from cde_retriever.checkpoint.plain_encoder import PlainEncoder
from cde_retriever.checkpoint.reading import Reading, identify_source
from cde_retriever.checkpoint.sentence_transformers import read_plain_encoder
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model.config import CUT, ModelConfig
from cde_retriever.model.two_stage import TwoStageModel


def wrap(folder: Path, reading: Reading, name: str) -> Checkpoint:
    """Read an encoder and put the head on it.

    Args:
        folder: A sentence-transformers model, or an encoder of `transformers`.
        reading: What the user says about it.
        name: Its name, for people.

    Raises:
        CheckpointError: if something is missing, damaged or not understood.
        ConfigError: if what the user says does not go with the encoder.
    """
    if reading.variant is not None:
        raise ConfigError(
            f"variant is {reading.variant!r}, but {folder} holds none of the authors' own weights, which alone have "
            "variants; leave it out"
        )
    plain = read_plain_encoder(folder, reading)
    queries = None
    if plain.queries is not None:
        model = _put_head(folder, plain.queries, name, reading)
        queries = _checkpoint(model, plain.queries, hash_model(model, plain.queries.tokenizer, torch.float32))
    model = _put_head(folder, plain, name, reading, None if queries is None else queries.sha256)
    if queries is not None and queries.model.dimension != model.dimension:
        raise CheckpointError(
            f"{folder} gives vectors of {queries.model.dimension} numbers to queries and of {model.dimension} to "
            "documents, which cannot be compared; restore the modules that belong together"
        )
    return _checkpoint(model, plain, identify_source(folder, reading), queries)


def _checkpoint(
    model: TwoStageModel, plain: PlainEncoder, identity: str, queries: Checkpoint | None = None
) -> Checkpoint:
    return Checkpoint(model.eval(), plain.tokenizer, identity, torch.float32, identity, queries)


def _put_head(
    folder: Path, plain: PlainEncoder, name: str, reading: Reading, query_encoder: str | None = None
) -> TwoStageModel:
    if plain.keeps_lengths:  # runs the encoder, before `open_model` looks at its numbers
        refuse_unreal(folder, plain.backbone.named_parameters())
        refuse_unreal(folder, plain.weights.items())
        keep_lengths(plain)
    config = _configure(plain, name, reading, query_encoder)
    model = TwoStageModel(config, plain.backbone)  # type: ignore[arg-type]
    if reading.vector_size is not None:
        sized = reading.sized(reading.head_settings, model.dimension, folder)
        model.config = replace(config, corpus_head=sized.to_dict())
    try:
        model.second_stage.projection.load_state_dict(plain.weights)
    except RuntimeError as error:
        raise CheckpointError(f"the layers after pooling in {folder} do not fit: {error!s:.300}") from error
    return model


def _configure(plain: PlainEncoder, name: str, reading: Reading, query_encoder: str | None) -> ModelConfig:
    return ModelConfig.around(
        plain.settings,
        reading.head_settings if reading.head else None,
        name=name,
        pooling=plain.pooling,
        pool_prompt=plain.pool_prompt,
        projection=tuple(plain.projection),
        query_encoder=query_encoder,
        max_length=plain.max_length,
        long_texts=reading.long_texts or CUT,
        prompts=plain.prompts,
    )
