"""Open a model's folder as what it is: a CDE checkpoint, or an encoder that gets a head in memory."""

from dataclasses import replace
from pathlib import Path

import torch

from cde_retriever.checkpoint.checkpoint import Checkpoint, read_checkpoint
from cde_retriever.checkpoint.kinds import CDE, RELEASED, kind_of
from cde_retriever.checkpoint.reading import Reading, identify_changed, refuse_sayings
from cde_retriever.checkpoint.released import read_released
from cde_retriever.checkpoint.wrapping import wrap


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
        reading: What is said about a model that is no CDE checkpoint.
        name: Name of a model that brings none.
        device: Where the model goes.
        dtype: Its dtype; None for float32.

    Raises:
        CheckpointError: if it is incomplete, damaged or nothing that is understood.
        ConfigError: if what is said does not go with it.
    """
    kind = kind_of(folder)
    if kind == CDE:
        refuse_sayings(folder, replace(reading, long_texts=None))
        read = _reading_long_texts(read_checkpoint(folder), reading.long_texts)
    else:
        read = (read_released if kind == RELEASED else wrap)(folder, reading, name)
    for part in (read, read.queries):
        if part is not None:
            part.model.to(device=device, dtype=dtype or torch.float32)
    return read


def _reading_long_texts(read: Checkpoint, long_texts: str | None) -> Checkpoint:
    """Return a checkpoint that reads long texts in another way, which makes it another model."""
    if long_texts is None:
        return read
    for part in (read, read.queries):
        if part is not None:
            part.model.config = replace(part.model.config, long_texts=long_texts)
    sha256 = identify_changed(read.sha256, long_texts)
    return replace(read, sha256=sha256, source_sha256=sha256)
