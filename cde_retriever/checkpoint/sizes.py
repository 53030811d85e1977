"""Compare the sizes that a configuration asks for with the weights in its file, before memory is taken for them."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cde_retriever.errors import CheckpointError
from cde_retriever.files.tensors import read_tensor_shapes
from cde_retriever.model.config import ModelConfig

WIDTHS = ("hidden_size", "n_embd")
TABLES = ("vocab_size", "intermediate_size", "n_inner")
"""Sizes of a backbone that stand for a matrix of so many rows, as wide as the backbone."""
LAYERS = ("num_hidden_layers", "n_layer")


def refuse_oversize(config: ModelConfig, weights: Path) -> None:
    """Compare a configuration with its weights: nothing in a model is larger than all of it.

    Raises:
        CheckpointError: if it asks for more numbers or layers than the file holds, names the setting; or if the file
            is damaged.
    """
    try:
        shapes = read_tensor_shapes(weights)
    except ValueError as error:
        raise CheckpointError(f"{weights} is damaged ({error}); copy it again") from error
    numbers = sum(math.prod(shape) for shape in shapes.values())
    for name, value, most in _sizes(config, numbers, len(shapes)):
        if value > most:
            raise CheckpointError(
                f"{name} is {value!r:.40}, but {weights} holds {numbers} numbers in {len(shapes)} tensors; restore the "
                "configuration that belongs to them"
            )


def _sizes(config: ModelConfig, numbers: int, tensors: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each size, its value and the most it can be."""
    yield "prompt_tokens", config.prompt_tokens, numbers
    yield "sketch_width", config.sketch_width, numbers
    for number, layer in enumerate(config.projection):
        for name, value in layer.items():
            if isinstance(value, int):
                yield f"projection.{number}.{name}", value, numbers
    for stage in ("first_stage", "second_stage"):
        settings: Mapping[str, Any] = getattr(config, stage)
        sizes = {name: value for name, value in settings.items() if isinstance(value, int)}
        width = max([1, *(sizes[name] for name in WIDTHS if name in sizes)])
        for name, value in sizes.items():
            if name in LAYERS:
                yield f"{stage}.{name}", value, tensors
            elif name in TABLES:
                yield f"{stage}.{name}", value, numbers // width
            elif name.endswith(("_size", "_heads", "_embeddings")) or name in (*WIDTHS, "n_head", "n_positions"):
                yield f"{stage}.{name}", value, numbers


def refuse_unknown_ids(tokenizer: Tokenizer, vocabulary_size: int, source: Path | str) -> None:
    """Compare a tokenizer with the vocabulary of its model.

    Raises:
        CheckpointError: if it gives ids that the model has no word vectors for.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocabulary_size:
        raise CheckpointError(
            f"the tokenizer of {source} gives token ids up to {largest}, but the model knows {vocabulary_size} tokens; "
            "restore the tokenizer that belongs to it"
        )
