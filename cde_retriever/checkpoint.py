"""Find, read and write checkpoints: a folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

A checkpoint of low-rank updates (`cde_retriever.low_rank`) has ``low_rank.safetensors`` instead of the weights, names
its base, and has a ``tokenizer.json`` only if the base's is another.
"""

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
from cde_retriever.low_rank import LOW_RANK_KEY, LOW_RANK_NAME, LowRankSettings, apply_updates, refuse_misfits
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
            str(name), revision=revision, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, LOW_RANK_NAME, TOKENIZER_NAME]
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
        CheckpointError: if a file is missing or damaged, tensors are missing, unexpected or of another shape (each is
            named), or the base of low-rank updates cannot be found or is another.
    """
    lineage = _lineage(folder)
    try:
        model = TwoStageModel(_read_config(folder)[0])
        for place, update in reversed(lineage):  # the base before what changes it
            weights = load_file(place / (LOW_RANK_NAME if update else WEIGHTS_NAME))
            if update:
                apply_updates(model, weights, update, source=str(place))
            else:
                _load_strictly(model, weights, place)
    except (ConfigError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error}") from error
    first = next((tensor.dtype for tensor in weights.values()), torch.float32)
    texts = next(place for place, _ in lineage if (place / TOKENIZER_NAME).is_file())
    return Checkpoint(
        model=model.to(device=device, dtype=dtype or torch.float32).eval(),
        tokenizer=TextTokenizer.read(texts / TOKENIZER_NAME),
        sha256=hash_checkpoint(folder),
        revision=revision,
        stored_dtype=first,
    )


def _lineage(folder: Path) -> list[tuple[Path, LowRankSettings | None]]:
    """Return a folder and, if it holds low-rank updates, their base, that one's base and so on, all verified."""
    update = _read_config(folder)[1]
    needed = (LOW_RANK_NAME,) if update else (WEIGHTS_NAME, TOKENIZER_NAME)
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a checkpoint holds config.json, model.safetensors, tokenizer.json, one of "
                f"low-rank updates config.json, {LOW_RANK_NAME}"
            )
    if update is None:
        return [(folder, None)]
    base = _find_base(folder, update)
    lineage = _lineage(base)
    found = hash_checkpoint(base)
    if found != update.base["sha256"]:
        raise CheckpointError(
            f"{folder} holds updates of a checkpoint with sha256 {update.base['sha256']}, the one found under "
            f"{update.base['name']!r} has {found}; put the right one there, or write where it is into "
            f"{LOW_RANK_KEY}.base of {folder / CONFIG_NAME}"
        )
    return [(folder, update), *lineage]


def _find_base(folder: Path, update: LowRankSettings) -> Path:
    name = update.base["name"]
    if name is not None and (folder / name).is_dir():
        return folder / name
    try:
        return find_checkpoint(name, update.base["revision"])[0]
    except CheckpointError as error:
        raise CheckpointError(
            f"cannot find the base of the low-rank updates in {folder}: {error}; write where it is into "
            f"{LOW_RANK_KEY}.base of {folder / CONFIG_NAME}"
        ) from error


def _read_config(folder: Path) -> tuple[ModelConfig, LowRankSettings | None]:
    """Return a folder's configuration, and what it says about low-rank updates."""
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_NAME}; is it a CDE checkpoint?")
    try:
        values = json.loads((folder / CONFIG_NAME).read_text())
        update = values.pop(LOW_RANK_KEY, None)
        return ModelConfig.from_dict(values), None if update is None else LowRankSettings.from_dict(update)
    except (ConfigError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error}") from error


def _load_strictly(model: TwoStageModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy weights into the model; every tensor of each must be in the other, with its shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.stored_state().items()}
    refuse_misfits(weights, shapes, source=str(folder))
    model.load_state_dict(weights, strict=False)  # strictness is above, and knows of the shared embeddings


def hash_checkpoint(folder: Path) -> str:
    """Return the sha256 over configuration, weights and tokenizer of a folder; of low-rank updates also their base's.

    Names, the model's and that of a base, are for people and take no part.
    """
    config = json.loads((folder / CONFIG_NAME).read_text())
    config.pop("name", None)
    update = config.get(LOW_RANK_KEY)
    if update:
        update["base"] = update["base"]["sha256"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in (LOW_RANK_NAME if update else WEIGHTS_NAME, TOKENIZER_NAME):
        if update and not (folder / name).is_file():
            continue  # the base's tokenizer, which its hash covers
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

    Raises:
        CheckpointError: if the model holds low-rank updates beside its weights.
    """
    folder = Path(folder)
    stored = model.stored_state()
    if any(".lora_" in name for name in stored):
        raise CheckpointError(
            "the model holds low-rank updates beside its weights; write them with write_low_rank, or add them to the "
            "weights with merge_low_rank first (both in cde_train.low_rank)"
        )
    with replaced_folder(folder) as new:
        (new / LOW_RANK_NAME).unlink(missing_ok=True)
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in stored.items()}
        save_file(state, new / WEIGHTS_NAME, metadata={"format": "pt"})
        tokenizer.save(str(new / TOKENIZER_NAME))
        config = json.dumps(model.config.to_dict(), indent=2, sort_keys=True)
        (new / CONFIG_NAME).write_text(config + "\n")
    return folder


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give a copy of the folder to write into, and put it in the folder's place at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
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
