"""Read what a CDE checkpoint decides about a run that starts from it, before anything of the run is written."""

from dataclasses import fields, replace

from cde_retriever.checkpoint.checkpoint import read_config
from cde_retriever.checkpoint.folder import find_checkpoint
from cde_retriever.checkpoint.kinds import CDE, kind_of
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig
from cde_train.run.sections import TRAINABLE, ModelSection, RunConfig
from cde_train.training.config import StartConfig


def resolve(config: RunConfig) -> RunConfig:
    """Return a run whose model section says what the checkpoint it starts from is; of a plain encoder, the run itself.

    Raises:
        CheckpointError: if the base cannot be found or read.
        ConfigError: if settings differ from those of a CDE checkpoint, or do not go with it; names each. If the
            checkpoint has a corpus head.
    """
    folder, _ = find_checkpoint(config.model.start)
    there = read_config(folder)[0] if kind_of(folder) == CDE else None
    if config.distillation.steps:
        return _resolve_distillation(config, there)
    if there is None:
        return config
    if there.corpus_head is not None:
        raise ConfigError(
            f"{config.model.start} has a corpus head, which is not trained; start from its plain encoder, or from a "
            f"checkpoint without one, such as {TRAINABLE}"
        )
    names = [f.name for f in fields(StartConfig) if f.name != "name"]
    faults = [
        f"model.{name} is {getattr(config.model, name)!r}, but the checkpoint {there.name} has {getattr(there, name)!r}"
        for name in names
        if getattr(config.model, name) not in (getattr(there, name), getattr(ModelSection(), name))
    ]
    if faults:
        raise ConfigError("; ".join(faults) + "; leave it out, or start from a plain encoder", faults)
    _refuse_larger_contexts(config, there)
    described = {name: getattr(there, name) for name in names} | {"prompts": dict(there.prompts)}
    return replace(config, model=ModelSection(**{**vars(config.model), **described}))


def _refuse_larger_contexts(config: RunConfig, there: ModelConfig) -> None:
    """Refuse contexts of more documents than a model reads whose context documents stand at positions."""
    faults = [
        f"phase.{number}.context_sizes is {list(phase.context_sizes)}, but {there.name} reads {there.context_size} "
        "context documents, no more; lower it"
        for number, phase in enumerate(config.phase)
        if there.positions != "text" and phase.context_sizes[1] > there.context_size
    ]
    if faults:
        raise ConfigError("; ".join(faults), faults)


def _resolve_distillation(config: RunConfig, there: ModelConfig | None) -> RunConfig:
    """Return a run that learns the numbers of a short vector; a checkpoint must have one, and says how long texts are.

    Raises:
        ConfigError: if it has none, or is asked for another length or size.
    """
    if there is None:
        return config
    start, size = config.model.start, config.distillation.vector_size
    if there.corpus_head is None or not there.corpus_head.get("directions"):
        raise ConfigError(
            f"{start} has no short vector, whose numbers are learned; start from its plain encoder, from "
            "cde-minilm-l6-short, or from what cde wrap --vector-size wrote"
        )
    if size or config.model.max_length not in (there.max_length, ModelSection().max_length):
        raise ConfigError(
            f"distillation.vector_size is {size} and model.max_length {config.model.max_length}, but {start} is a "
            "checkpoint, which says both itself; leave them out"
        )
    return replace(config, model=replace(config.model, max_length=there.max_length))
