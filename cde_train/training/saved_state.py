"""Save the states of a run whole or not at all, and recognise those of another run.

A state is a folder ``checkpoint-STEP``. ``complete.json``, written into it last, holds the sha256 of each of its files;
a folder without it was being written when the process died and is removed. ``settings.json`` beside the states tells
which run they belong to.
"""

import hashlib
import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cde_retriever.checkpoint.checkpoint import read_checkpoint, write_checkpoint
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError
from cde_retriever.files.hashing import files_of, hash_file
from cde_retriever.files.records import parse_json
from cde_retriever.files.replacing import write_atomically
from cde_train.errors import ArtifactError
from cde_train.training.config import TrainConfig
from cde_train.training.low_rank import load_low_rank_state, low_rank_state
from cde_train.training.processes import is_first_process

COMPLETE_NAME = "complete.json"
SETTINGS_NAME = "settings.json"
UPDATES_NAME = "updates.safetensors"


def claim(output: Path, config: TrainConfig, batches: NDArray[np.int64], sha256: str) -> None:
    """Mark a folder as this run's, or see that it is; of several processes the first marks it.

    Args:
        output: The run's folder.
        config: Its settings.
        batches: Its packed batches.
        sha256: Hash of the model it starts from.

    Raises:
        ArtifactError: if it belongs to a run with other settings, batches or start; names them.
    """
    mine = json.loads(json.dumps(asdict(config)))
    mine |= {"start": sha256, "batches": hashlib.sha256(batches.tobytes()).hexdigest()}
    file = output / SETTINGS_NAME
    if not file.exists():
        if is_first_process():
            write_atomically(file, (json.dumps(mine, indent=2) + "\n").encode())
        return
    try:
        theirs = parse_json(file.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{file} is damaged ({error}); delete {output} to start afresh") from error
    other = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if other:
        raise ArtifactError(
            f"{output} belongs to a run with other {', '.join(other)} "
            f"({other[0]} there is {theirs.get(other[0])!r}, here {mine.get(other[0])!r}); choose another folder, or "
            "delete it"
        )


def seal(state: Path) -> None:
    """Declare a state whole."""
    files = [path for path in files_of(state) if path.name != COMPLETE_NAME]
    hashes = {str(path.relative_to(state)): hash_file(path) for path in files}
    write_atomically(state / COMPLETE_NAME, (json.dumps(hashes, indent=2) + "\n").encode())


def newest_whole_state(output: Path) -> Path | None:
    """Return the newest state that is whole, None if there is none, and remove those that are not.

    Warns about a state that was whole and is damaged; it is passed over. Several processes find the same state, each
    while the first removes others.
    """
    for state in sorted(output.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        fault = _fault(state)
        if fault is None:
            return state
        if is_first_process():
            if (state / COMPLETE_NAME).exists():
                warnings.warn(f"{state} is damaged ({fault}); going on from the state before it", stacklevel=2)
            shutil.rmtree(state)
    return None


def write_model(folder: Path, encoder: ContextualEncoder, config: TrainConfig) -> None:
    """Write what training changes: the whole model as a checkpoint, or the low-rank updates."""
    if config.lora_rank:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: tensor.detach().cpu().contiguous() for name, tensor in low_rank_state(encoder.open_model()).items()
        }
        (folder / UPDATES_NAME).write_bytes(save(state))  # readable as the umask says
    else:
        write_checkpoint(folder, encoder.open_model(), encoder.tokenizer, dtype=torch.float32)


def load_model(folder: Path, encoder: ContextualEncoder, config: TrainConfig) -> None:
    """Load what `write_model` wrote.

    Raises:
        ArtifactError: if it is damaged.
    """
    try:
        if config.lora_rank:
            load_low_rank_state(encoder.open_model(), load_file(folder / UPDATES_NAME))
        else:
            encoder.open_model().load_state_dict(read_checkpoint(folder).model.state_dict())
    except (CheckpointError, SafetensorError, OSError) as error:
        raise ArtifactError(f"cannot read the saved state {folder}: {error}") from error


def _fault(state: Path) -> str | None:
    """Say what is wrong with a state, None if it is whole."""
    try:
        hashes = parse_json((state / COMPLETE_NAME).read_bytes())
        changed = [name for name, expected in hashes.items() if hash_file(state / name) != expected]
    except ValueError:
        return f"{COMPLETE_NAME} is unreadable"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    return f"{changed[0]} has changed" if changed else None
