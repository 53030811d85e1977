"""Define the settings of a start and of one training run; plain values, so that reading them loads no framework."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ROLES, ModelConfig
from cde_train.settings import AtLeast0, AtLeast1, AtLeast2, AtLeast3, Positive, Rate, Seed, Settings, Share

HEAD: Final = "head"
"""The start that is an encoder with a corpus head, among the ways of `context_attention`."""
ContextAttention = Literal["head", "cached", "joint", "late"]
NOT_OF_A_HEAD = (
    *("term_statistics", "term_shrinkage", "sketch_width"),
    *("share_backbone", "prompt_tokens", "output_head"),
)
"""Settings of models that read the context inside."""
STAND_IN = {"model_type": "any", "hidden_size": 1}
"""An encoder about which nothing is known yet."""


@dataclass(frozen=True)
class StartConfig(Settings):
    """How to make a model of one plain encoder; fields as in `cde_retriever.model.config.ModelConfig`.

    `context_attention` may be ``"head"`` as well: the encoder as it is, with a corpus head beside it
    (`cde_retriever.context.knowledge`), whose numbers are the same for every encoder. Then `NOT_OF_A_HEAD` stay as
    they are. `context_size` may be 0, for what is usual (`ModelConfig.around`).
    """

    name: str
    context_attention: ContextAttention = "cached"
    context_moments: bool = True
    term_statistics: bool = False
    term_shrinkage: float = 0.0
    sketch_width: int = 0
    share_backbone: bool = False
    context_size: int = 0
    prompt_tokens: int = 0
    output_head: str = "none"
    max_length: int = 256
    prompts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(ROLES, ""))

    def contradictions(self) -> Iterator[str]:
        """Yield what a model of these settings would be refused for."""
        for name in NOT_OF_A_HEAD if self.context_attention == HEAD else ():
            if getattr(self, name) != getattr(StartConfig, name):
                yield (
                    f"{name} is {getattr(self, name)!r}, which context_attention {HEAD!r} does not have; leave it out, "
                    "or name another context_attention"
                )
        try:
            self.model_config(STAND_IN)
        except ConfigError as error:
            yield from error.faults

    def model_config(self, encoder: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration of a model whose two stages are one plain encoder, of this configuration."""
        if self.context_attention == HEAD:
            return ModelConfig.around(
                encoder,
                HeadSettings(),
                name=self.name,
                context_size=self.context_size,
                max_length=self.max_length,
                prompts=self.prompts,
            )
        made = {f.name: getattr(self, f.name) for f in fields(StartConfig)}
        made["context_size"] = self.context_size or ModelConfig.context_size
        return ModelConfig(
            first_stage=encoder,
            second_stage=encoder,
            context_projection=self.context_attention != "late",
            share_word_embeddings=not self.share_backbone,
            **made,
        )


@dataclass(frozen=True)
class TrainConfig(Settings):
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
        train_backbone: Whether the second stage's encoder is trained, or only what a plain one does not have: gate,
            heads, what leads the context in. Where both stages are one encoder, this is about that one.
        lora_rank: Rank of the low-rank updates to train instead of the full weights; 0 for full weights.
        lora_alpha: Scale of the updates is alpha / rank.
        temperature: Divides the cosine scores (paper: 0.02).
        learning_rate: Peak rate of what a plain encoder has, and of low-rank updates (paper: 2e-5).
        new_learning_rate: Peak rate of what leads the context in, null context, prompt and output head, which start
            untrained.
        gate_learning_rate: Peak rate of the gate and of the numbers of a `late` head, which must travel far.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: Steps of linear warm-up, half of all where there are no more; linear decay to zero follows.
        max_grad_norm: Largest gradient norm; 0 for no clipping.
        interpolation: How far the result goes from the start to the trained weights: 1 is all the way, 0.5 the
            middle, which often keeps more of what the start was good at (WiSE-FT, arXiv 2109.01903).
        precision: ``"fp32"`` or ``"bf16"`` (autocast; weights stay fp32). CPUs that multiply in bfloat16 (AMX) take
            half to two thirds of the time in it.
        gradient_checkpointing: Whether to recompute activations layer by layer; less memory a chunk, more time.
        eval_steps: Steps between two measurements on the development set; 0 for none.
        save_steps: Steps between two saved states.
        patience: Measurements without a better one after which training stops; 0 for never.
        report_to: Loggers, as the Hugging Face `Trainer` names them, such as ``"tensorboard"``.
        seed: Seed of everything random.
    """

    steps: AtLeast0 = 0
    epochs: AtLeast0 = 3
    batch_size: AtLeast2 = 128
    chunk_size: AtLeast1 = 64
    train_length: AtLeast3 = 128
    hard_negatives: AtLeast0 = 0
    context_source: Literal["batch", "domain"] = "batch"
    context_sizes: tuple[int, int] = (16, 512)
    context_dropout: Share = 0.005
    null_rate: Share = 0.1
    train_first_stage: bool = False
    train_backbone: bool = True
    lora_rank: AtLeast0 = 0
    lora_alpha: AtLeast1 = 16
    temperature: Positive = 0.02
    learning_rate: Rate = 2e-5
    new_learning_rate: Rate = 3e-4
    gate_learning_rate: Rate = 1e-2
    weight_decay: Rate = 0.01
    warmup_steps: AtLeast0 = 100
    max_grad_norm: Rate = 1.0
    interpolation: Share = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    eval_steps: AtLeast0 = 0
    save_steps: AtLeast1 = 100
    patience: AtLeast0 = 0
    report_to: tuple[str, ...] = ()
    seed: Seed = 0

    def contradictions(self) -> Iterator[str]:
        """Yield which settings do not go together."""
        if not 1 <= self.context_sizes[0] <= self.context_sizes[1]:
            yield f"context_sizes is {list(self.context_sizes)}, expected [least, most] with 1 <= least <= most"
        if self.steps == 0 and self.epochs == 0:
            yield "steps and epochs are both 0; set one of them"
        if self.patience and not self.eval_steps:
            yield (
                f"patience is {self.patience} but eval_steps is 0, so nothing is measured; set eval_steps, or patience "
                "to 0"
            )
        if self.lora_rank and self.train_first_stage:
            yield (
                f"train_first_stage is true but lora_rank is {self.lora_rank}, which trains updates of the second "
                "stage; set train_first_stage to false, or lora_rank to 0"
            )
        if self.lora_rank and not self.train_backbone:
            yield (
                f"train_backbone is false but lora_rank is {self.lora_rank}, which trains updates of the backbone; set "
                "train_backbone to true, or lora_rank to 0"
            )
        if self.lora_rank and self.interpolation != 1:
            yield (
                f"interpolation is {self.interpolation} but lora_rank is {self.lora_rank}, and only full weights are "
                "interpolated; lower lora_alpha instead"
            )
        if self.eval_steps and self.save_steps % self.eval_steps:
            yield f"save_steps is {self.save_steps}, expected a multiple of eval_steps, which is {self.eval_steps}"

    def misfits(self, model: StartConfig | ModelConfig) -> Iterator[str]:
        """Yield which settings do not go with the model that is trained."""
        changing = "train_backbone" if model.share_backbone else "train_first_stage"
        if model.context_attention == "late" and model.context_moments and getattr(self, changing):
            yield (
                f"{changing} is true, but the model's context_attention is 'late' with context_moments, whose head "
                f"stands on a first stage that stays as it is; set {changing} to false"
            )
        if getattr(model, "corpus_head", None) is not None and not self.train_backbone:
            yield (
                "train_backbone is false, but beneath a corpus head the encoder is all that is trained; set it to true"
            )
        if not getattr(model, "pool_prompt", True) and len(set(model.prompts.values())) > 1:
            yield (
                "the model does not pool its prompts, which differ, and training would leave out equally many tokens "
                "of queries and documents; start from one that pools its prompts, or give both roles the same prompt"
            )
