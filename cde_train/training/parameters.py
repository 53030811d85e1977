"""Choose which parameters are trained, and at what rate."""

from typing import Any

from torch import nn

from cde_retriever.errors import ConfigError
from cde_retriever.model.two_stage import TwoStageModel
from cde_train.training.config import TrainConfig
from cde_train.training.low_rank import add_low_rank


def prepare_parameters(model: TwoStageModel, config: TrainConfig) -> None:
    """Freeze what is not trained, and put in low-rank updates if they are asked for.

    Under a frozen first stage, word embeddings that both stages share are frozen too: its vectors were computed once
    and have to stay right. Where both stages are one encoder, `train_backbone` is about that one.

    Raises:
        ConfigError: if settings do not go with the model.
    """
    if faults := list(config.misfits(model.config)):
        raise ConfigError("; ".join(faults), faults)
    model.requires_grad_(True)
    if config.lora_rank:
        add_low_rank(model, config.lora_rank, config.lora_alpha)  # freezes what it does not train
    if not config.train_backbone:
        for part in (model.second_stage.backbone, model.second_stage.projection):
            part.requires_grad_(False)
    if not (config.train_backbone if model.config.share_backbone else config.train_first_stage):
        model.first_stage.requires_grad_(False)


def parameter_groups(model: TwoStageModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Return what is trained in groups of one rate and one weight decay.

    What a plain encoder has, its backbone and the layers after pooling, and low-rank updates move at `learning_rate`;
    what it does not have at `new_learning_rate`; the gate, and the few numbers of a `late` head, at
    `gate_learning_rate`. Weight decay is on matrices of the first kind alone: pulled to zero, a gate would open and
    what leads the context in would close.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not parameter.numel():
            continue
        rate, decay = config.gate_learning_rate, 0.0
        if any(part in name for part in (".backbone.", ".projection.")):
            rate, decay = config.learning_rate, config.weight_decay if parameter.ndim > 1 else 0.0
        elif any(part in name for part in (".context_projection", ".prompt", ".null_context", ".output_head")):
            rate = config.new_learning_rate
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
