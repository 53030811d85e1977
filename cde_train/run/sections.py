"""Put the sections of a run together, and say what can be wrong between them.

A section is the settings class of the module that does the work, so each setting is defined and checked once
(`cde_train.settings`). `RunConfig` reports the faults between sections together, named as on the command line
(``phase.0.learning_rate``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from cde_retriever.checkpoint.folder import DEFAULT_CHECKPOINT
from cde_retriever.errors import ConfigError
from cde_train.batching.false_negatives import FilterConfig
from cde_train.batching.hard_negatives import MiningConfig
from cde_train.batching.packing import PackingConfig
from cde_train.batching.spherical_kmeans import ClusteringConfig
from cde_train.data.holdout import HoldOutConfig
from cde_train.data.pseudo_queries import PseudoQueryConfig
from cde_train.distillation.config import DistillationConfig
from cde_train.settings import Settings
from cde_train.training.config import HEAD, ContextAttention, StartConfig, TrainConfig
from cde_train.vectors.surrogate import SurrogateConfig

BUNDLED_START = DEFAULT_CHECKPOINT.name
"""What training starts from if nothing is said: the bundled checkpoint."""


@dataclass(frozen=True)
class ModelSection(StartConfig):
    """What training starts from.

    Attributes:
        base: A plain encoder or a CDE checkpoint, as folder or Hub id; empty for `BUNDLED_START`. A checkpoint brings
            its own architecture: the other settings then may not differ from it.
        name: The result's name; empty for that of the output folder.
        context_attention: What becomes of a plain encoder: ``"head"`` puts a corpus head around it, the others read
            the context inside of the model (`StartConfig`).
        dtype: What the result's weights are stored in, unless it is low-rank updates alone.
    """

    name: str = ""
    base: str = ""
    context_attention: ContextAttention = HEAD
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    @property
    def start(self) -> str:
        """Folder or Hub id of what training starts from."""
        return self.base or BUNDLED_START


@dataclass(frozen=True)
class PhaseConfig(TrainConfig):
    """One phase of training: `TrainConfig`, a name and its data.

    Attributes:
        name: What to call it; its files are in a folder of that name.
        data: Where its pairs are; empty for the run's own.
    """

    name: str = "training"
    data: str = ""

    def contradictions(self) -> Iterator[str]:
        """Yield which settings do not go together."""
        yield from super().contradictions()
        if not self.name.replace("-", "").replace("_", "").isalnum():
            yield f"name is {self.name!r}, expected letters, digits, - and _, because a folder is named after it"
        if self.context_source == "batch" and self.context_sizes[0] > self.batch_size:
            yield (
                f"context_sizes is {list(self.context_sizes)}, but a batch has {self.batch_size} documents to draw a "
                "context from (hard negatives are none); lower the first, raise batch_size, or set context_source to "
                '"domain"'
            )


@dataclass(frozen=True)
class RunConfig:
    """A whole run; `cde_train.run.config` describes the sections.

    Raises:
        ConfigError: if sections contradict each other; names every fault.
    """

    model: ModelSection = field(default_factory=ModelSection)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    packing: PackingConfig = field(default_factory=PackingConfig)
    filtering: FilterConfig = field(default_factory=FilterConfig)
    negatives: MiningConfig = field(default_factory=MiningConfig)
    pseudo_queries: PseudoQueryConfig = field(default_factory=PseudoQueryConfig)
    held_out: HoldOutConfig = field(default_factory=HoldOutConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    phase: tuple[PhaseConfig, ...] = (PhaseConfig(),)

    def __post_init__(self) -> None:
        """Check the sections against each other; each has checked itself."""
        refuse(list(contradictions(vars(self))))

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
SECTIONS: dict[str, type[Settings]] = {
    f.name: type(f.default_factory()) for f in fields(RunConfig) if callable(f.default_factory)
}
"""Class of each section; phases, of which there may be several, are not among them."""


def contradictions(sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong between sections."""
    model = sections["model"]
    phases = list(enumerate(sections["phase"]))
    steps = sections["distillation"].steps
    if not phases and not model.term_statistics and not steps:
        yield (
            "phase is empty, which leaves nothing to do; expected at least one [[phase]], model.term_statistics, whose "
            "prior is counted without training, or distillation.steps"
        )
    for name, other in (("phase", phases), ("model.term_statistics", model.term_statistics)):
        if steps and other:
            yield f"distillation.steps is {steps}, which does not go with {name}; leave one of them out"
    if steps and sections["surrogate"].model:
        yield (
            f"surrogate.model is {sections['surrogate'].model!r}, but distillation.steps is {steps}, which learns from "
            'vectors of the model itself; set surrogate.model to ""'
        )
    for i, phase in phases:
        yield from (f"phase.{i}.{fault}" for fault in phase.misfits(model))
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


def refuse(faults: Sequence[str]) -> None:
    """Raise `ConfigError` with every fault, if there is any."""
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise ConfigError(f"{count} in the configuration:\n" + "\n".join(f"  {fault}" for fault in faults), faults)
