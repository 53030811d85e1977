"""Read low-rank updates of a second stage (LoRA, arXiv 2106.09685), without `peft`.

A checkpoint of updates is a folder with ``config.json`` and ``low_rank.safetensors``, a few MB instead of a whole
model. Under ``low_rank`` its configuration names the checkpoint that the updates were trained on and that one's hash:

    {"low_rank": {"base": {"name": "../base", "revision": null, "sha256": "..."}, "rank": 8, "alpha": 16}, ...}

The name is a folder as seen from this one, an absolute path, a Hub id, or null for the bundled checkpoint. It is no
part of the identity, the hash is: a base that moved is found again by editing the name, another base is refused.

Of every linear layer of the backbone the file holds ``lora_A``, (rank, in), and ``lora_B``, (out, rank), which stand
for the update ``alpha / rank * B A`` of its weight; what a plain encoder does not have it holds whole.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cde_retriever.checkpoint.folder import LOW_RANK_KEY
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model.two_stage import TwoStageModel

BACKBONE = "second_stage.backbone."


@dataclass(frozen=True)
class LowRankSettings:
    """What a checkpoint of updates says about them.

    Attributes:
        base: Name and revision of the checkpoint they belong to, as `find_checkpoint` takes them, and its sha256.
        rank: Rank of the updates.
        alpha: They are scaled by alpha / rank.
    """

    base: Mapping[str, str | None]
    rank: int
    alpha: float

    @classmethod
    def from_dict(cls, values: Any) -> "LowRankSettings":
        """Read what is in a configuration.

        Raises:
            ConfigError: if it is anything else.
        """
        try:
            read = cls(**values)
            whole = set(read.base) == {"name", "revision", "sha256"} and isinstance(read.base["sha256"], str)
            named = all(isinstance(read.base[key], str | None) for key in ("name", "revision"))
            if whole and named and isinstance(read.rank, int) and read.rank > 0 and 0 < read.alpha < math.inf:
                return read
        except (TypeError, KeyError):
            pass
        raise ConfigError(
            f"{LOW_RANK_KEY} in the configuration is {values!r:.200}, expected base (name, revision, sha256), a whole "
            "rank above 0, and alpha above 0"
        )


def updated_layers(model: TwoStageModel) -> list[str]:
    """Return the names, within the model, of the linear layers that have low-rank updates: all of the backbone's."""
    layers = model.second_stage.backbone.named_modules()
    return [BACKBONE + name for name, module in layers if isinstance(module, nn.Linear)]


def whole_parameters(model: TwoStageModel) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained and stored whole: the second stage's, the backbone's left out."""
    parameters = model.second_stage.named_parameters(prefix="second_stage")
    return {name: p for name, p in parameters if not name.startswith(BACKBONE) and p.numel()}


def apply_updates(
    model: TwoStageModel, updates: Mapping[str, Tensor], settings: LowRankSettings, *, source: str
) -> None:
    """Add updates, read from a source, to the weights of their base.

    Raises:
        CheckpointError: if tensors are missing, unexpected, or of another shape; each is named.
    """
    layers = {name: model.get_submodule(name).get_parameter("weight") for name in updated_layers(model)}
    shapes: dict[str, tuple[int, ...]] = {name: tuple(p.shape) for name, p in whole_parameters(model).items()}
    for name, weight in layers.items():
        shapes[f"{name}.lora_A.weight"] = (settings.rank, weight.shape[1])
        shapes[f"{name}.lora_B.weight"] = (weight.shape[0], settings.rank)
    refuse_misfits(updates, shapes, source=source)
    with torch.no_grad():
        for name, weight in layers.items():
            a, b = (updates[f"{name}.lora_{part}.weight"].to(weight) for part in "AB")
            weight.add_(b @ a, alpha=settings.alpha / settings.rank)
        for name, parameter in whole_parameters(model).items():
            parameter.copy_(updates[name])


def refuse_misfits(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, source: str) -> None:
    """Refuse tensors, read from a source, other than those expected.

    Raises:
        CheckpointError: if some are missing, unexpected, or of another shape; each is named.
    """
    faults = [f"missing {name}" for name in sorted(shapes.keys() - tensors.keys())]
    faults += [f"unexpected {name}" for name in sorted(tensors.keys() - shapes.keys())]
    for name in sorted(shapes.keys() & tensors.keys()):
        if tuple(tensors[name].shape) != shapes[name]:
            faults.append(f"{name} is {tuple(tensors[name].shape)}, expected {shapes[name]}")
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise CheckpointError(f"the weights in {source} do not fit its configuration: " + "; ".join(faults[:10]) + more)
