"""Open a model's folder as what it is: a CDE checkpoint, or an encoder that gets a head in memory."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cde_retriever.checkpoint.checkpoint import Checkpoint, read_checkpoint
from cde_retriever.checkpoint.finite import refuse_unreal
from cde_retriever.checkpoint.kinds import CDE, RELEASED, kind_of
from cde_retriever.checkpoint.plain_encoder import longest_text, refuse_length
from cde_retriever.checkpoint.reading import Reading, changes_of, identify_changed
from cde_retriever.checkpoint.released import read_released
from cde_retriever.checkpoint.wrapping import wrap
from cde_retriever.model.two_stage import TwoStageModel


def open_model(
    folder: Path,
    reading: Reading,
    *,
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """Read a model, whatever the format of its folder.

    Args:
        folder: The folder.
        reading: What is said about it; of a CDE checkpoint only how long a text may be, what becomes of longer
            ones, and whether its context is for queries alone.
        name: Name of a model that brings none.
        device: Where the model goes.
        dtype: Its dtype; None for float32.

    Raises:
        CheckpointError: if it is incomplete, damaged or nothing that is understood.
        ConfigError: if what is said does not go with it.
    """
    kind = kind_of(folder)
    if kind == CDE:
        read = _change(folder, read_checkpoint(folder), changes_of(folder, reading))
    else:
        read = (read_released if kind == RELEASED else wrap)(folder, reading, name)
    for part in (read, read.queries):
        if part is not None:
            refuse_unreal(folder, part.model.named_parameters())
            part.model.to(device=device, dtype=dtype or torch.float32)
    return read


def _change(folder: Path, read: Checkpoint, changes: Mapping[str, Any]) -> Checkpoint:
    """Return a checkpoint of which something else is said, which makes it another model."""
    if not changes:
        return read
    for part in (read, read.queries):
        if part is not None:
            refuse_length(folder, changes.get("max_length"), _longest_text(part.model))
            part.model.config = replace(part.model.config, **changes)
    sha256 = identify_changed(read.sha256, changes)
    return replace(read, sha256=sha256, source_sha256=sha256)


def _longest_text(model: TwoStageModel) -> int:
    """Return how many tokens both stages read, the second behind its context where that has positions of its own."""
    config = model.config
    ahead = 0 if config.positions == "text" else config.context_size + config.prompt_tokens
    return min(longest_text(model.first_stage.backbone), longest_text(model.second_stage.backbone) - ahead)
