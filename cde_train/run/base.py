"""Read what a CDE checkpoint decides about a run that starts from it, before anything of the run is written."""

from dataclasses import fields, replace

from cde_retriever.checkpoint.checkpoint import read_config
from cde_retriever.checkpoint.folder import find_checkpoint
from cde_retriever.checkpoint.kinds import CDE, kind_of
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig
from cde_train.run.config import load_run_config
from cde_train.run.sections import ModelSection, RunConfig
from cde_train.training.config import HEAD, STAND_IN, StartConfig, TrainConfig

OF_A_CONTEXT = (
    *("context_source", "context_sizes", "context_dropout", "null_rate"),
    *("train_first_stage", "new_learning_rate", "gate_learning_rate"),
)
"""Settings of a phase that do nothing beneath a corpus head, where training sees no context."""

USUAL_BEFORE = {"context_size": 512}
"""What a run of an earlier version has written where nobody set it."""


def resolve(config: RunConfig) -> RunConfig:
    """Return a run whose model section says what the checkpoint it starts from is; of a plain encoder, the run itself.

    Raises:
        CheckpointError: if the base cannot be found or read.
        ConfigError: if settings differ from those of a CDE checkpoint, or do not go with it; names each.
    """
    folder, _ = find_checkpoint(config.model.start)
    there = read_config(folder)[0] if kind_of(folder) == CDE else None
    if config.distillation.steps:
        return _resolve_distillation(config, there)
    if there is None:
        return _with_something_to_train(config)
    names = [f.name for f in fields(StartConfig) if f.name != "name"]
    has = {name: getattr(there, name) for name in names}
    if there.corpus_head is not None:
        of_a_head = ("context_attention", "context_moments", "share_backbone")
        has |= {name: getattr(ModelSection(), name) for name in of_a_head}
    faults = [
        f"model.{name} is {getattr(config.model, name)!r}, but the checkpoint {there.name} has {value!r}"
        for name, value in has.items()
        if getattr(config.model, name) not in (value, getattr(ModelSection(), name), USUAL_BEFORE.get(name, value))
        and not (name == "context_moments" and there.corpus_head is not None)  # beneath a head there are none
    ]
    if faults:
        raise ConfigError("; ".join(faults) + "; leave it out, or start from a plain encoder", faults)
    _refuse_larger_contexts(config, there)
    model = ModelSection(**{**vars(config.model), **has, "prompts": dict(there.prompts)})
    return _with_something_to_train(replace(config, model=model))


def idle_settings(config: RunConfig) -> list[str]:
    """Return the paths of what somebody set and does nothing, beneath a corpus head, in a run that `resolve` gave."""
    usual = TrainConfig(), load_run_config().phase[0]  # what they are if nobody sets them
    return [
        f"phase.{number}.{name}"
        for number, phase in enumerate(config.phase if config.model.context_attention == HEAD else ())
        for name in OF_A_CONTEXT
        if getattr(phase, name) not in [getattr(settings, name) for settings in usual]
    ]


def _with_something_to_train(config: RunConfig) -> RunConfig:
    """Return a run whose start is known, and refuse phases that would train nothing of it."""
    start = config.start_of("start").model_config(STAND_IN)
    faults = [f"phase.{i}.{fault}" for i, phase in enumerate(config.phase) for fault in phase.misfits(start)]
    if faults:
        raise ConfigError("; ".join(faults), faults)
    return config


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
        ConfigError: if it has none, or one whose queries are fitted, or is asked for another length or size.
    """
    if there is None:
        return config
    start, size = config.model.start, config.distillation.vector_size
    head = None if there.corpus_head is None else HeadSettings.from_dict(there.corpus_head)
    if head is None or not head.directions:
        raise ConfigError(
            f"{start} has no short vector, whose numbers are learned; start from its plain encoder, or from "
            "cde-minilm-l6-short"
        )
    if head.query_noise:
        raise ConfigError(
            f"{start} fits queries to its short vector, as of cde wrap --vector-size, and needs nothing learned; use "
            "it as it is, or start from its plain encoder, or from cde-minilm-l6-short"
        )
    if size or config.model.max_length not in (there.max_length, ModelSection().max_length):
        raise ConfigError(
            f"distillation.vector_size is {size} and model.max_length {config.model.max_length}, but {start} is a "
            "checkpoint, which says both itself; leave them out"
        )
    return replace(config, model=replace(config.model, max_length=there.max_length))
