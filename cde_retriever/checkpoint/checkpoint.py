"""Read and write checkpoints: a folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

A checkpoint of low-rank updates (`cde_retriever.checkpoint.low_rank`) has ``low_rank.safetensors`` instead of the
weights, names its base, and has a ``tokenizer.json`` only if the base's is another.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tokenizers import Tokenizer

from cde_retriever.checkpoint.folder import (
    BUNDLED,
    CONFIG_NAME,
    DEFAULT_CHECKPOINT,
    FILES_OF_KEY,
    LOW_RANK_KEY,
    LOW_RANK_NAME,
    QUERIES,
    SOURCE_KEY,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    bundled_names,
    file_of,
    find_checkpoint,
    hash_checkpoint,
    hash_contents,
    model_values,
    read_tokenizer,
    refuse_other_queries,
)
from cde_retriever.checkpoint.low_rank import LowRankSettings, apply_updates, refuse_misfits
from cde_retriever.checkpoint.sizes import refuse_oversize, refuse_unknown_ids
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.files.records import parse_json
from cde_retriever.files.replacing import replacing_folder
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.two_stage import TwoStageModel


@dataclass(frozen=True)
class Checkpoint:
    """A model read from a folder.

    Attributes:
        model: The model, on the CPU and in float32 as it is read.
        tokenizer: Its tokenizer, without prompts.
        sha256: Hash of configuration, weights and tokenizer as stored.
        stored_dtype: Dtype of the stored weights.
        source_sha256: Hash of what it was converted from, if it was; `sha256` then is the same.
        queries: The encoder of queries, where it is another.
    """

    model: TwoStageModel
    tokenizer: Tokenizer
    sha256: str
    stored_dtype: torch.dtype
    source_sha256: str | None = None
    queries: "Checkpoint | None" = None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint strictly, in float32.

    Raises:
        CheckpointError: if a file is missing or damaged, tensors are missing, unexpected or of another shape (each is
            named), or the base of low-rank updates cannot be found or is another.
    """
    lineage = _lineage(folder)
    config = read_config(folder)[0]
    try:
        refuse_oversize(config, file_of(lineage[-1][0], WEIGHTS_NAME))
        model = _build(config, folder)
        for place, update in reversed(lineage):  # the base before what changes it
            weights = load_file(file_of(place, LOW_RANK_NAME if update else WEIGHTS_NAME))
            if update:
                apply_updates(model, weights, update, source=str(place))
            else:
                _load_strictly(model, weights, place)
    except (ConfigError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error}") from error
    first = next((tensor.dtype for tensor in weights.values()), torch.float32)
    found = (file_of(place, TOKENIZER_NAME) for place, _ in lineage)
    texts = next(file for file in found if file.is_file())
    tokenizer = read_tokenizer(texts)
    refuse_unknown_ids(tokenizer, int(model.second_stage.backbone.config.vocab_size), texts.parent)
    return Checkpoint(
        model=model.eval(),
        tokenizer=tokenizer,
        sha256=hash_checkpoint(folder),
        stored_dtype=first,
        source_sha256=_source_of(folder),
        queries=_read_queries(folder, config),
    )


def _read_queries(folder: Path, config: ModelConfig) -> Checkpoint | None:
    if config.query_encoder is None:
        return None
    read = read_checkpoint(folder / QUERIES)
    refuse_other_queries(folder, config.query_encoder, read.sha256)
    return read


def _source_of(folder: Path) -> str | None:
    """Return the sha256 that a copy keeps: of what a folder was converted from, or of a folder with shared files."""
    values = parse_json((folder / CONFIG_NAME).read_bytes())
    if FILES_OF_KEY in values:
        return hash_checkpoint(folder)
    source = values.get(SOURCE_KEY)
    return source["sha256"] if source and source["sha256"] == hash_checkpoint(folder) else None


def _build(config: ModelConfig, folder: Path) -> TwoStageModel:
    """Build the model of a configuration; what `transformers` makes of a damaged one can be any error."""
    try:
        return TwoStageModel(config)
    except Exception as error:
        raise CheckpointError(f"cannot build the model that {folder / CONFIG_NAME} describes: {error}") from error


def _lineage(folder: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, LowRankSettings | None]]:
    """Return a folder and, if it holds low-rank updates, their base, that one's base and so on, all verified.

    Args:
        folder: The folder.
        above: Folders whose base it is, directly or not, resolved.
    """
    if folder.resolve() in above:
        raise CheckpointError(
            f"the low-rank updates in {above[0]} are based on themselves, through {folder}; write the right base into "
            f"{LOW_RANK_KEY}.base of {above[-1] / CONFIG_NAME}"
        )
    update = read_config(folder)[1]
    needed = (LOW_RANK_NAME,) if update else (WEIGHTS_NAME, TOKENIZER_NAME)
    for name in needed:
        if not file_of(folder, name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a checkpoint holds config.json, model.safetensors, tokenizer.json, one of "
                f"low-rank updates config.json, {LOW_RANK_NAME}"
            )
    if update is None:
        return [(folder, None)]
    base = _find_base(folder, update)
    lineage = _lineage(base, (*above, folder.resolve()))
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
    if name is None:  # bundled, perhaps with an earlier version
        same = (BUNDLED / n for n in bundled_names() if hash_checkpoint(BUNDLED / n) == update.base["sha256"])
        return next(same, DEFAULT_CHECKPOINT)
    try:
        if (folder / name).is_dir():
            return folder / name
    except OSError as error:  # a name that is too long for the system
        raise CheckpointError(f"the base of the low-rank updates in {folder} has no name: {error!s:.80}") from error
    try:
        return find_checkpoint(name, update.base["revision"])[0]
    except CheckpointError as error:
        raise CheckpointError(
            f"cannot find the base of the low-rank updates in {folder}: {error}; write where it is into "
            f"{LOW_RANK_KEY}.base of {folder / CONFIG_NAME}"
        ) from error


def read_config(folder: Path) -> tuple[ModelConfig, LowRankSettings | None]:
    """Return a folder's configuration, and what it says about low-rank updates.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_NAME}; is it a CDE checkpoint?")
    try:
        values = parse_json((folder / CONFIG_NAME).read_bytes())
        update = values.get(LOW_RANK_KEY)
        config = ModelConfig.from_dict(model_values(values))
        return config, None if update is None else LowRankSettings.from_dict(update)
    except (ConfigError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error!s:.500}") from error


def _load_strictly(model: TwoStageModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy weights into the model; every tensor of each must be in the other, with its shape.

    Of a file that belongs to another checkpoint, what that one alone has is left out.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.stored_state().items()}
    if not (folder / WEIGHTS_NAME).is_file():
        weights = {name: tensor for name, tensor in weights.items() if name in shapes}
    refuse_misfits(weights, shapes, source=str(folder))
    model.load_state_dict(weights, strict=False)  # strictness is above, and knows of the shared embeddings


def hash_model(model: TwoStageModel, tokenizer: Tokenizer, dtype: torch.dtype) -> str:
    """Return the `hash_checkpoint` of the folder this model would be written to."""
    contents = _contents(model, tokenizer, dtype)
    return hash_contents(
        model.config.to_dict(), (hashlib.sha256(contents[name]).digest() for name in (WEIGHTS_NAME, TOKENIZER_NAME))
    )


def _contents(model: TwoStageModel, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, bytes]:
    """Return the files of a checkpoint, by name.

    Raises:
        CheckpointError: if the model holds low-rank updates beside its weights.
    """
    stored = model.stored_state()
    if any(".lora_" in name for name in stored):
        raise CheckpointError(
            "the model holds low-rank updates beside its weights; write them with write_low_rank, or add them to the "
            "weights with merge_low_rank first (both in cde_train.training.low_rank)"
        )
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in stored.items()}
    return {
        WEIGHTS_NAME: save(state, metadata={"format": "pt"}),
        TOKENIZER_NAME: tokenizer.to_str(pretty=True).encode(),
        CONFIG_NAME: (json.dumps(model.config.to_dict(), indent=2, sort_keys=True) + "\n").encode(),
    }


def write_checkpoint(
    folder: str | os.PathLike[str],
    model: TwoStageModel,
    tokenizer: Tokenizer,
    *,
    dtype: torch.dtype,
    source_sha256: str | None = None,
    queries: tuple[TwoStageModel, Tokenizer] | None = None,
) -> Path:
    """Write a checkpoint; a killed process leaves the old folder or the new one.

    Args:
        folder: Where to; other files that stand there, such as a model card, stay.
        model: The model.
        tokenizer: Its tokenizer.
        dtype: Dtype of the stored weights.
        source_sha256: Hash of what the model was converted from and still is; the folder keeps it (`hash_checkpoint`).
        queries: The encoder of queries and its tokenizer, where it is another.

    Raises:
        CheckpointError: if the model holds low-rank updates beside its weights.
    """
    folder = Path(folder)
    contents = _contents(model, tokenizer, dtype)
    of_queries = {} if queries is None else _contents(*queries, dtype)
    if queries is not None:
        values = parse_json(contents[CONFIG_NAME]) | {"query_encoder": hash_model(*queries, dtype)}
        contents[CONFIG_NAME] = (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
    with replacing_folder(folder) as new:
        (new / LOW_RANK_NAME).unlink(missing_ok=True)
        shutil.rmtree(new / QUERIES, ignore_errors=True)
        for name, content in contents.items():
            # safetensors 0.8's own save_file lets the owner alone read the file, whatever the umask.
            (new / name).write_bytes(content)
        for name, content in of_queries.items():
            (new / QUERIES).mkdir(exist_ok=True)
            (new / QUERIES / name).write_bytes(content)
        if source_sha256 is not None:
            values = parse_json(contents[CONFIG_NAME])
            values[SOURCE_KEY] = {"sha256": source_sha256, "checkpoint": hash_checkpoint(new)}
            (new / CONFIG_NAME).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    return folder
