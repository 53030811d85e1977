"""Settings of a start and of one training run; plain values, so that reading a configuration loads no framework."""

from collections.abc import Iterator
from dataclasses import dataclass, field

LEAST = {
    "steps": 0,
    "epochs": 0,
    "batch_size": 2,
    "chunk_size": 1,
    "train_length": 3,
    "hard_negatives": 0,
    "lora_rank": 0,
    "lora_alpha": 1,
    "learning_rate": 0,
    "new_learning_rate": 0,
    "gate_learning_rate": 0,
    "weight_decay": 0,
    "warmup_steps": 0,
    "max_grad_norm": 0,
    "eval_steps": 0,
    "save_steps": 1,
    "patience": 0,
}
CONTEXT_SOURCES = ("batch", "domain")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class StartConfig:
    """How to put two stages together from one plain encoder; fields as in `cde_retriever.model.config.ModelConfig`."""

    name: str
    context_attention: str = "cached"
    context_moments: bool = True
    term_statistics: bool = False
    term_shrinkage: float = 0.0
    sketch_width: int = 0
    share_backbone: bool = False
    context_size: int = 512
    prompt_tokens: int = 0
    output_head: str = "none"
    max_length: int = 256
    prompts: dict[str, str] = field(default_factory=lambda: {"query": "", "document": ""})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run: one phase of training, from a model to a model.

    Attributes:
        steps: Optimiser steps; 0 means as many as `epochs` give.
        epochs: Passes over the pairs, where `steps` is 0 (paper: 3).
        batch_size: Pairs a step over all devices, all of one domain.
        chunk_size: Texts through a model at once; decides memory, never the result.
        train_length: Longest text in training, in tokens.
        hard_negatives: Hard negatives used per query; every pair must have that many.
        context_source: ``"batch"``: a batch's context is drawn from its own documents (paper); ``"domain"``: from all
            documents of its domain.
        context_sizes: Smallest and largest context, in documents; each step draws a size between them.
        context_dropout: Chance that the null context's vector replaces a context document (paper: 0.005).
        null_rate: Share of steps under the null context.
        train_first_stage: Whether the first stage is trained too; if not, its vectors are computed once.
        train_backbone: Whether the second stage's backbone is trained, or only what a plain one does not have: gate,
            projection, heads. Where both stages are one encoder, this is about that one.
        lora_rank: Rank of the low-rank updates to train instead of the full weights; 0 for full weights.
        lora_alpha: Scale of the updates is alpha / rank.
        temperature: Divides the cosine scores (paper: 0.02).
        learning_rate: Peak rate of backbone weights and of low-rank updates (paper: 2e-5).
        new_learning_rate: Peak rate of projection, null context, prompt and output head, which start untrained.
        gate_learning_rate: Peak rate of the gate and of the numbers of a `late` head, which must travel far.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: Steps of linear warm-up; linear decay to zero follows.
        max_grad_norm: Largest gradient norm; 0 for no clipping.
        interpolation: How far the result goes from the start to the trained weights: 1 is all the way, 0.5 the
            middle, which often keeps more of what the start was good at (WiSE-FT, arXiv 2109.01903).
        precision: ``"fp32"`` or ``"bf16"`` (autocast; weights stay fp32).
        gradient_checkpointing: Whether to recompute activations layer by layer; less memory a chunk, more time.
        eval_steps: Steps between two measurements on the development set; 0 for none.
        save_steps: Steps between two saved states.
        patience: Measurements without a better one after which training stops; 0 for never.
        report_to: Loggers, as the Hugging Face `Trainer` names them, such as ``"tensorboard"``.
        seed: Seed of everything random.
    """

    steps: int = 0
    epochs: int = 3
    batch_size: int = 128
    chunk_size: int = 64
    train_length: int = 128
    hard_negatives: int = 0
    context_source: str = "batch"
    context_sizes: tuple[int, int] = (16, 512)
    context_dropout: float = 0.005
    null_rate: float = 0.1
    train_first_stage: bool = False
    train_backbone: bool = True
    lora_rank: int = 0
    lora_alpha: int = 16
    temperature: float = 0.02
    learning_rate: float = 2e-5
    new_learning_rate: float = 3e-4
    gate_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    warmup_steps: int = 100
    max_grad_norm: float = 1.0
    interpolation: float = 1.0
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    eval_steps: int = 0
    save_steps: int = 100
    patience: int = 0
    report_to: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, all faults in one message."""
        faults = self.faults()
        if faults:
            raise ValueError("invalid training settings: " + "; ".join(faults))

    def faults(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        return [*self._out_of_range(), *self._contradictions()]

    def _out_of_range(self) -> Iterator[str]:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                yield f"{name} is {getattr(self, name)}, expected at least {least}"
        for name in ("context_dropout", "null_rate", "interpolation"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"{name} is {getattr(self, name)}, expected a share from 0 to 1"
        for name, allowed in (("context_source", CONTEXT_SOURCES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                yield f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
        if self.temperature <= 0:
            yield f"temperature is {self.temperature}, expected more than 0"
        if not 1 <= self.context_sizes[0] <= self.context_sizes[1]:
            yield f"context_sizes is {list(self.context_sizes)}, expected [least, most] with 1 <= least <= most"

    def _contradictions(self) -> Iterator[str]:
        if self.steps == 0 and self.epochs == 0:
            yield "steps and epochs are both 0; set one of them"
        if self.patience and not self.eval_steps:
            yield "patience needs measurements to be patient with; set eval_steps"
        if self.lora_rank and self.train_first_stage:
            yield "lora_rank trains updates of the second stage; set train_first_stage to false"
        if self.lora_rank and not self.train_backbone:
            yield "lora_rank trains updates of the backbone; set train_backbone to true, or lora_rank to 0"
        if self.lora_rank and self.interpolation != 1:
            yield "interpolation is for full weights; with lora_rank, lower lora_alpha instead"
        if self.eval_steps and self.save_steps % self.eval_steps:
            yield f"save_steps is {self.save_steps}, expected a multiple of eval_steps, {self.eval_steps}"
