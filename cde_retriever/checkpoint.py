"""Find, read and write checkpoints: a folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from cde_retriever.config import ModelConfig
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model import TwoStageModel
from cde_retriever.tokenization import TextTokenizer

CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME = "config.json", "model.safetensors", "tokenizer.json"
DEFAULT_CHECKPOINT = Path(__file__).parent / "default_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A model read from a folder.

    Attributes:
        model: The model, in the dtype asked for.
        tokenizer: Its tokenizer, without prompts.
        sha256: Hash of configuration, weights and tokenizer as stored.
        revision: Hub commit, if it came from there.
        stored_dtype: Dtype of the stored weights.
    """

    model: TwoStageModel
    tokenizer: Tokenizer
    sha256: str
    revision: str | None
    stored_dtype: torch.dtype


def find_checkpoint(name: str | os.PathLike[str] | None, revision: str | None = None) -> tuple[Path, str | None]:
    """Return a checkpoint's folder and, for one from the Hub, its commit.

    Args:
        name: None for the bundled default, a folder, or a Hub id such as ``"organisation/model"``.
        revision: Branch, tag or commit on the Hub.

    Raises:
        CheckpointError: if it is neither a folder nor obtainable from the Hub.
    """
    if name is None:
        return DEFAULT_CHECKPOINT, None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            str(name), revision=revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{str(name)!r} is neither a folder nor a checkpoint the Hub gives ({type(error).__name__}: {error})"
        ) from error
    return Path(snapshot), Path(snapshot).name


def read_checkpoint(
    folder: Path, *, revision: str | None = None, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Checkpoint:
    """Read a checkpoint strictly.

    Args:
        folder: The folder.
        revision: Recorded, not checked.
        device: Where the model goes.
        dtype: Dtype of the model; None means float32.

    Raises:
        CheckpointError: if a file is missing or damaged, or tensors are missing, unexpected or of another shape;
            each is named.
    """
    for name in (CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a checkpoint holds config.json, model.safetensors, tokenizer.json"
            )
    try:
        config = ModelConfig.from_dict(json.loads((folder / CONFIG_NAME).read_text()))
        weights = load_file(folder / WEIGHTS_NAME)
        model = TwoStageModel(config)
    except (ConfigError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error}") from error
    _load_strictly(model, weights, folder)
    stored = next((tensor.dtype for tensor in weights.values()), torch.float32)
    return Checkpoint(
        model=model.to(device=device, dtype=dtype or torch.float32).eval(),
        tokenizer=TextTokenizer.read(folder / TOKENIZER_NAME),
        sha256=hash_checkpoint(folder),
        revision=revision,
        stored_dtype=stored,
    )


def _load_strictly(model: TwoStageModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy weights into the model; every tensor of each must be in the other, with its shape."""
    own = model.stored_state()
    faults = [f"missing {name}" for name in sorted(own.keys() - weights.keys())]
    faults += [f"unexpected {name}" for name in sorted(weights.keys() - own.keys())]
    for name in sorted(own.keys() & weights.keys()):
        if own[name].shape != weights[name].shape:
            faults.append(f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}")
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise CheckpointError(f"the weights in {folder} do not fit its configuration: " + "; ".join(faults[:10]) + more)
    model.load_state_dict(weights, strict=False)  # strictness is above, and knows of the shared embeddings


def hash_checkpoint(folder: Path) -> str:
    """Return the sha256 over configuration (its name aside), weights and tokenizer of a folder."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    config.pop("name", None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in (WEIGHTS_NAME, TOKENIZER_NAME):
        with open(folder / name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def hash_model(model: TwoStageModel, tokenizer: Tokenizer, dtype: torch.dtype) -> str:
    """Return the `hash_checkpoint` of the folder this model would be written to."""
    with tempfile.TemporaryDirectory() as folder:
        return hash_checkpoint(write_checkpoint(Path(folder) / "model", model, tokenizer, dtype=dtype))


def write_checkpoint(
    folder: str | os.PathLike[str], model: TwoStageModel, tokenizer: Tokenizer, *, dtype: torch.dtype
) -> Path:
    """Write a checkpoint; a killed process leaves the old folder or the new one.

    Args:
        folder: Where to; other files that stand there, such as a model card, stay.
        model: The model.
        tokenizer: Its tokenizer.
        dtype: Dtype of the stored weights.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _replaced_folder(folder) as new:
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.stored_state().items()}
        save_file(state, new / WEIGHTS_NAME, metadata={"format": "pt"})
        tokenizer.save(str(new / TOKENIZER_NAME))
        config = json.dumps(model.config.to_dict(), indent=2, sort_keys=True)
        (new / CONFIG_NAME).write_text(config + "\n")
    return folder


@contextlib.contextmanager
def _replaced_folder(folder: Path) -> Iterator[Path]:
    """Give a copy of the folder to write into, and put it in the folder's place at the end."""
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        if folder.is_dir():
            shutil.copytree(folder, new, dirs_exist_ok=True)
        yield new
        replace_folder(folder, new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def replace_folder(folder: Path, new: Path) -> None:
    """Put a new folder, made beside it, in the place of an old one, if there is one."""
    new.chmod(0o755)
    if folder.is_dir():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)
    else:
        new.rename(folder)
