"""The sections of a run's configuration, and what can be wrong inside and between them.

Most sections are the settings dataclass of the module that does the work, so each setting is defined once. A section
names its own faults in `faults`, those between sections are found here, and `RunConfig` reports all of them together,
named as on the command line (``phase.0.learning_rate``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from cde_retriever.errors import ConfigError
from cde_retriever.model.config import CONTEXT_ATTENTIONS, OUTPUT_HEADS, ROLES
from cde_train.batching.clustering import ClusteringConfig
from cde_train.batching.false_negatives import FilterConfig
from cde_train.batching.hard_negatives import MiningConfig
from cde_train.batching.packing import PackingConfig
from cde_train.data.holdout import HoldOutConfig
from cde_train.data.pseudo_queries import PseudoQueryConfig
from cde_train.training.config import StartConfig, TrainConfig
from cde_train.vectors.surrogate import SurrogateConfig

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelSection(StartConfig):
    """What training starts from.

    Attributes:
        base: A plain encoder or a CDE checkpoint, as folder or Hub id; empty for the bundled checkpoint. A checkpoint
            brings its own architecture: the other settings then may not differ from it.
        name: The result's name; empty for that of the output folder.
        dtype: What the result's weights are stored in, unless it is low-rank updates alone.
    """

    name: str = ""
    base: str = ""
    dtype: str = "float32"

    def faults(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = []
        for name, allowed in (
            ("context_attention", CONTEXT_ATTENTIONS),
            ("output_head", OUTPUT_HEADS),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in allowed:
                found.append(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        for name, least in (("context_size", 1), ("prompt_tokens", 0), ("max_length", 3)):
            if getattr(self, name) < least:
                found.append(f"{name} is {getattr(self, name)}, expected at least {least}")
        if set(self.prompts) != set(ROLES):
            found.append(f"prompts has the keys {sorted(self.prompts)}, expected {sorted(ROLES)}")
        return found


@dataclass(frozen=True)
class PhaseConfig(TrainConfig):
    """One phase of training: `TrainConfig`, a name and its data.

    Attributes:
        name: What to call it; its files are in a folder of that name.
        data: Where its pairs are; empty for the run's own.
    """

    name: str = "training"
    data: str = ""

    def __post_init__(self) -> None:
        """Check nothing: `RunConfig` asks for `faults`, to report those of all sections at once."""

    def faults(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = super().faults()
        if not self.name.replace("-", "").replace("_", "").isalnum():
            found.append(
                f"name is {self.name!r}, expected letters, digits, - and _, because a folder is named after it"
            )
        most = self.batch_size * (1 + self.hard_negatives)
        if self.context_source == "batch" and self.context_sizes[0] > most:
            found.append(
                f"context_sizes is {list(self.context_sizes)}, but a batch has {most} documents to draw a context "
                'from; lower the first, raise batch_size, or set context_source to "domain"'
            )
        if 0 < self.steps < self.warmup_steps:
            found.append(f"warmup_steps is {self.warmup_steps}, more than the {self.steps} steps of the phase")
        return found


@dataclass(frozen=True)
class RunConfig:
    """A whole run; see the module's docstring for the sections.

    Raises:
        ConfigError: if sections contradict themselves or each other; names every fault.
    """

    model: ModelSection = field(default_factory=ModelSection)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    packing: PackingConfig = field(default_factory=PackingConfig)
    filtering: FilterConfig = field(default_factory=FilterConfig)
    negatives: MiningConfig = field(default_factory=MiningConfig)
    pseudo_queries: PseudoQueryConfig = field(default_factory=PseudoQueryConfig)
    held_out: HoldOutConfig = field(default_factory=HoldOutConfig)
    phase: tuple[PhaseConfig, ...] = (PhaseConfig(),)

    def __post_init__(self) -> None:
        """Refuse contradictions inside and between sections."""
        refuse(list(section_faults(vars(self))) + list(contradictions(vars(self))))

    def start_of(self, name: str) -> StartConfig:
        """Return the settings of the start, under a name."""
        return StartConfig(**{f.name: getattr(self.model, f.name) for f in fields(StartConfig)} | {"name": name})

    def packing_of(self, phase: PhaseConfig) -> PackingConfig:
        """Return the packing settings with a phase's batch size."""
        return replace(self.packing, batch_size=phase.batch_size)

    def mining_of(self, phase: PhaseConfig) -> MiningConfig:
        """Return the mining settings with a phase's number of hard negatives."""
        return replace(self.negatives, count=phase.hard_negatives)


OF_THE_PHASE = {("packing", "batch_size"): "batch_size", ("negatives", "count"): "hard_negatives"}
"""Settings of sections that a phase decides, to their names there."""
SECTIONS: dict[str, type] = {
    f.name: type(f.default_factory()) for f in fields(RunConfig) if callable(f.default_factory)
}
"""Class of each section; phases, of which there may be several, are not among them."""


def section_faults(sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield what sections find wrong with themselves; the path first."""
    named = [(name, sections[name]) for name in SECTIONS]
    named += [(f"phase.{i}", phase) for i, phase in enumerate(sections["phase"])]
    for path, section in named:
        own: Callable[[], list[str]] | None = getattr(section, "faults", None)
        for fault in own() if own else ():
            yield f"{path}.{fault}"


def contradictions(sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong between sections."""
    model = sections["model"]
    phases = list(enumerate(sections["phase"]))
    if not sections["phase"] and not model.term_statistics:
        yield (
            "phase is empty, which leaves nothing to do; expected at least one [[phase]], or model.term_statistics, "
            "whose prior is counted without training"
        )
    yield from _of_the_layout(model)
    for i, phase in phases:
        changing = "train_backbone" if model.share_backbone else "train_first_stage"
        if model.context_attention == "late" and model.context_moments and getattr(phase, changing):
            yield (
                f"phase.{i}.{changing} is true, but model.context_attention is 'late' with context_moments, whose head "
                "stands on a first stage that stays as it is; set one of them otherwise"
            )
        if phase.train_length > model.max_length:
            yield (
                f"phase.{i}.train_length is {phase.train_length}, more than the {model.max_length} tokens of "
                "model.max_length that the model reads"
            )
        ranks = sections["negatives"].range_max - sections["negatives"].range_min
        if phase.hard_negatives > ranks:
            yield (
                f"phase.{i}.hard_negatives is {phase.hard_negatives}, but negatives.range_min and negatives.range_max "
                f"leave {ranks} documents to take them from"
            )
        if phase.name in [other.name for j, other in phases if j < i]:
            yield f"phase.{i}.name is {phase.name!r}, as that of an earlier phase; name it otherwise"


def _of_the_layout(model: ModelSection) -> Iterator[str]:
    """Yield which settings of the model do not go with its layout."""
    if model.context_attention == "late" and model.prompt_tokens:
        yield (
            f"model.prompt_tokens is {model.prompt_tokens}, but model.context_attention is 'late', which has none; set "
            "it to 0"
        )
    if model.context_attention == "late" and not model.context_moments and not model.term_statistics:
        yield "model.context_moments and model.term_statistics are both false, which leaves 'late' without a context"
    for name in ("term_statistics", "share_backbone"):
        if getattr(model, name) and model.context_attention != "late":
            yield f"model.{name} is true, but model.context_attention is {model.context_attention!r}; it needs 'late'"
    if not 0 <= model.term_shrinkage < 1 or (model.term_shrinkage and not model.term_statistics):
        yield (
            f"model.term_shrinkage is {model.term_shrinkage}, expected 0, or a number between 0 and 1 together with "
            "model.term_statistics"
        )
    if model.sketch_width % 8 or model.sketch_width < 0 or (model.sketch_width and not model.term_statistics):
        yield (
            f"model.sketch_width is {model.sketch_width}, expected 0, or a multiple of 8 together with "
            "model.term_statistics"
        )


def refuse(faults: Sequence[str]) -> None:
    """Raise `ConfigError` with every fault, if there is any."""
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise ConfigError(f"{count} in the configuration:\n" + "\n".join(f"  {fault}" for fault in faults))
