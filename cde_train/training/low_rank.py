"""Train low-rank updates of a second stage with `peft`, and write them as a checkpoint of a few MB.

`add_low_rank` puts the updates into a model in place; it runs, trains and is measured like any other. Afterwards
`write_low_rank` writes what `cde_retriever.checkpoint.low_rank` reads, or `merge_low_rank` makes the model a plain one.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cde_retriever.checkpoint.checkpoint import read_checkpoint
from cde_retriever.checkpoint.folder import (
    CONFIG_NAME,
    DEFAULT_CHECKPOINT,
    LOW_RANK_KEY,
    LOW_RANK_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    find_checkpoint,
)
from cde_retriever.checkpoint.low_rank import (
    BACKBONE,
    LowRankSettings,
    refuse_misfits,
    updated_layers,
    whole_parameters,
)
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError
from cde_retriever.files.records import parse_json
from cde_retriever.files.replacing import replacing_folder
from cde_retriever.model.two_stage import TwoStageModel

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"


def add_low_rank(model: TwoStageModel, rank: int, alpha: float) -> None:
    """Put low-rank updates, which start as zero, into every linear layer of the second stage's backbone, in place.

    They and what else of the second stage is stored whole (`whole_parameters`: layers after pooling, gate, prompt, null
    context, output head, the numbers of a `late` head) are left trainable, everything else is frozen. A model that has
    such updates keeps them. Factors that start random are the same every time; the process' own random state stays as
    it is.

    Args:
        model: The model.
        rank: Rank of the updates.
        alpha: They are scaled by alpha / rank.

    Raises:
        ValueError: if the model has updates of another rank or alpha.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    has = _settings(model)
    if has is None:
        names = [name.removeprefix(BACKBONE) for name in updated_layers(model)]
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inject_adapter_in_model(config, model.second_stage.backbone, ADAPTER)
    elif has != (rank, alpha):
        raise ValueError(
            f"the model has updates of rank {has[0]} and alpha {has[1]}, received rank {rank} and alpha {alpha}; "
            "merge_low_rank(model) first"
        )
    for parameter in _trained(model).values():
        parameter.requires_grad_(True)


def low_rank_state(model: TwoStageModel) -> dict[str, Tensor]:
    """Return what is trained and stored: the updates' factors, and what a plain encoder does not have."""
    return {name: parameter.detach() for name, parameter in _trained(model).items()}


def load_low_rank_state(model: TwoStageModel, state: Mapping[str, Tensor]) -> None:
    """Copy what `low_rank_state` gave into a model that `add_low_rank` has prepared.

    Raises:
        CheckpointError: if tensors are missing, unexpected, or of another shape; each is named.
    """
    own = _trained(model)
    refuse_misfits(state, {name: tuple(parameter.shape) for name, parameter in own.items()}, source="the saved state")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def merge_low_rank(model: TwoStageModel) -> None:
    """Add the updates to the weights, in place; the model is then a plain one, without `peft`."""
    for name, layer in list(_adapted(model)):
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def write_low_rank(
    folder: str | os.PathLike[str],
    encoder: ContextualEncoder,
    base: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
) -> Path:
    """Write a checkpoint of the updates alone; a killed process leaves the old folder or the new one.

    Args:
        folder: Where to. Loads as any checkpoint does, as long as the base is found.
        encoder: Holds the model with the updates, and the tokenizer.
        base: The checkpoint they were trained on: None for the bundled one, a folder, or a Hub id. An absolute path is
            written as it is, a relative one as seen from `folder`, so that both can move together.
        revision: Branch, tag or commit of a base on the Hub.

    Raises:
        CheckpointError: if the base is not what the updates were trained on.
        ValueError: if the model has no updates.
    """
    folder = Path(folder)
    settings = _settings(encoder.open_model())
    if settings is None:
        raise ValueError("the model has no low-rank updates; call add_low_rank before training, or save_pretrained")
    source, commit = find_checkpoint(base, revision)
    read = read_checkpoint(source)
    _refuse_other_base(encoder.open_model(), read.model, source)
    name = _name_of(base, source, folder)
    described = {"name": name, "revision": commit, "sha256": read.sha256}
    config = encoder.config.to_dict() | {LOW_RANK_KEY: asdict(LowRankSettings(described, *settings))}
    state = {k: v.to("cpu", torch.float32).contiguous() for k, v in low_rank_state(encoder.open_model()).items()}
    with replacing_folder(folder) as new:
        for stale in (WEIGHTS_NAME, TOKENIZER_NAME):
            (new / stale).unlink(missing_ok=True)
        (new / LOW_RANK_NAME).write_bytes(save(state, metadata={"format": "pt"}))  # readable as the umask says
        if encoder.tokenizer.to_str() != read.tokenizer.to_str():
            encoder.tokenizer.save(str(new / TOKENIZER_NAME))
        (new / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def config_seen_from(folder: Path, config: Path) -> bytes:
    """Return the content that a checkpoint's ``config.json`` has in another folder.

    Args:
        folder: Where the checkpoint will stand.
        config: The file; the base of low-rank updates is named as seen from `folder`, if it is named relatively here.
    """
    content = config.read_bytes()
    values = parse_json(content)
    base = values.get(LOW_RANK_KEY, {}).get("base", {})
    name = base.get("name")
    if name is None or Path(name).is_absolute() or not (config.parent / name).is_dir():
        return content
    base["name"] = _relative(config.parent / name, folder)
    return (json.dumps(values, indent=2) + "\n").encode()


def _adapted(model: TwoStageModel) -> Iterator[tuple[str, "LoraLayer"]]:
    """Yield the layers that have updates, by their names within the model."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _settings(model: TwoStageModel) -> tuple[int, float] | None:
    """Return rank and alpha of a model's updates, None if it has none."""
    for _, layer in _adapted(model):
        return layer.r[ADAPTER], layer.lora_alpha[ADAPTER]
    return None


def _trained(model: TwoStageModel) -> dict[str, nn.Parameter]:
    """Return what is trained, under the names of the file."""
    trained = whole_parameters(model)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            trained[name.replace(f".{ADAPTER}.", ".")] = parameter
    return trained


def _refuse_other_base(model: TwoStageModel, base: TwoStageModel, folder: Path) -> None:
    """Compare what was frozen with a base's weights."""
    trained = low_rank_state(model)
    frozen = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.stored_state().items()
        if ".lora_" not in name and name not in trained and tensor.numel()
    }
    theirs = base.stored_state()
    for name, tensor in frozen.items():
        if name not in theirs or not torch.equal(tensor.to("cpu", torch.float32), theirs[name]):
            raise CheckpointError(
                f"{folder} is not the checkpoint that the updates were trained on: its {name} is "
                f"{'another' if name in theirs else 'missing'}; give the one that training started from"
            )


def _name_of(base: str | os.PathLike[str] | None, source: Path, folder: Path) -> str | None:
    """Return how a base is written into the configuration in a folder."""
    if base is None or source.resolve() == DEFAULT_CHECKPOINT.resolve():
        return None
    path = Path(base).expanduser()
    if not path.is_dir():
        return str(base)
    return str(path) if path.is_absolute() else _relative(path, folder)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
