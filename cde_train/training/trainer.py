"""Train a two-stage model on the Hugging Face `Trainer`, from packed batches.

The `Trainer` brings devices, mixed precision, several processes (``torchrun``), AdamW's schedule, clipping, loggers,
checkpoints, early stopping. What is ours is the step (`cde_train.training.gradient_caching`) and what a step sees
(`cde_train.training.batches`).

A saved state counts once it is whole (`saved_state`); a killed run continues from the newest to the same weights.
"""

import os
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, ProgressCallback, TrainingArguments
from transformers import Trainer as HuggingFaceTrainer

from cde_retriever.backends.pytorch import default_device
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, TruncationWarning
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.evaluation.comparison import judged_parts, rank_in_context
from cde_train.evaluation.ranking import measure
from cde_train.training.batches import BatchBuilder, TrainingSet
from cde_train.training.callbacks import METRIC, BestState, TrainingProgress
from cde_train.training.config import TrainConfig
from cde_train.training.cpu_attention import faster_attention
from cde_train.training.gradient_caching import Chunking, cached_step
from cde_train.training.laps import Laps
from cde_train.training.parameters import parameter_groups, prepare_parameters
from cde_train.training.saved_state import claim, load_model, newest_whole_state, seal, write_model
from cde_train.training.term_prior import estimate_prior
from cde_train.vectors.surrogate import FirstStage, embed_texts
from cde_train.vectors.text_vectors import TextVectors


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    Attributes:
        steps: Steps taken in all, over all starts.
        best_step: Step of the weights kept, where there was a development set.
        best_ndcg_at_10: Their nDCG@10 on it, from 0 to 1.
        log: What was logged, oldest first: step, loss, accuracy, gradient norm, times, measurements.
    """

    steps: int
    best_step: int | None
    best_ndcg_at_10: float | None
    log: list[dict[str, Any]]


def train(
    encoder: ContextualEncoder,
    data: TrainingSet,
    config: TrainConfig,
    output: Path,
    *,
    development: RetrievalSet | None = None,
) -> TrainResult:
    """Train an encoder's model in place; goes on from the newest whole state in the output folder.

    Args:
        encoder: The model to start from. Afterwards it holds the best weights, or the last ones without a development
            set, `config.interpolation` of the way from the start.
        data: Pairs and packed batches; `config.steps` of them are used, or all.
        config: Settings of the run.
        output: Where states and loggers write.
        development: What to measure every `config.eval_steps` on; full-corpus retrieval, context fitted on its corpus.

    Raises:
        TrainingDataError: for data that do not fit the settings.
        ArtifactError: if the folder belongs to a run with other settings.
        FloatingPointError: if the loss is not a finite number.
    """
    model = encoder.open_model()
    output.mkdir(parents=True, exist_ok=True)
    identity = encoder.identity.sha256
    claim(output, config, data.batches, identity)
    if encoder.config.term_statistics:
        estimate_prior(encoder, data.documents_by_domain)
    start = {n: weight.detach().clone() for n, weight in model.named_parameters()} if config.interpolation != 1 else {}
    trainer = TwoStageTrainer(encoder, data, config, output, development, identity)
    saved = newest_whole_state(output)
    with faster_attention(model) if trainer.args.bf16 else nullcontext():
        trainer.train(resume_from_checkpoint=None if saved is None else str(saved))
    model.requires_grad_(False).eval()
    trained = dict(model.named_parameters())  # each once, also what both stages share; buffers are not trained
    for name, weight in start.items():
        trained[name].lerp_(weight.to(trained[name]), 1 - config.interpolation)
    state = trainer.state
    best = (state.best_global_step, state.best_metric) if trainer.measured else (None, None)
    return TrainResult(state.global_step, *best, list(state.log_history))


class TwoStageTrainer(HuggingFaceTrainer):
    """The `Trainer` around two-stage gradient caching; use `train`."""

    def __init__(
        self,
        encoder: ContextualEncoder,
        data: TrainingSet,
        config: TrainConfig,
        output: Path,
        development: RetrievalSet | None,
        identity: str,
    ) -> None:
        self.encoder = encoder
        self.two_stage = encoder.open_model()
        self.identity = identity  # of the start, whose first stage stays as it is unless it is trained
        self.config = config
        self.development = development
        self.measured = development is not None and config.eval_steps > 0
        self._figures: dict[str, float] = {}  # of the step just taken
        prepare_parameters(self.two_stage, config)
        steps = len(data.batches[: config.steps or None])
        super().__init__(
            model=nn.ModuleList([self.two_stage]),  # the `Trainer` would write into the model's own frozen `config`
            args=_arguments(config, output, steps, self.measured),
            train_dataset=[{"step": step} for step in range(steps)],
            eval_dataset=[],  # `evaluate` has its own
            callbacks=[EarlyStoppingCallback(config.patience)] if config.patience and self.measured else None,
        )
        self.laps = Laps(self.args.device)
        self.pop_callback(ProgressCallback)
        self.add_callback(TrainingProgress)
        self.add_callback(BestState)
        if config.gradient_checkpointing:
            for stage in (self.two_stage.first_stage, self.two_stage.second_stage):
                if not getattr(stage.backbone, "supports_gradient_checkpointing", False):
                    raise ConfigError(
                        f"gradient_checkpointing is true, but {type(stage.backbone).__name__} cannot recompute its "
                        "layers; set gradient_checkpointing to false and chunk_size lower"
                    )
                stage.backbone.activation_checkpointing_enable()
        self.tokenizer = encoder.text_tokenizer(config.train_length)
        self.builder = self._batch_builder(data, output)

    def _batch_builder(self, data: TrainingSet, output: Path) -> BatchBuilder:
        """Return what builds this process's part of each step."""
        return BatchBuilder(
            data,
            self.config,
            self.tokenizer,
            first_stage=self._first_stage_vectors(data, output),
            reads_vectors=self.two_stage.second_stage.reads_dataset_embeddings,
            vocabulary=self.encoder.vocabulary_size if self.encoder.config.term_statistics else 0,
            rank=self.args.process_index,
            processes=self.args.world_size,
        )

    def _first_stage_vectors(self, data: TrainingSet, output: Path) -> TextVectors | None:
        """Return a frozen first stage's vectors of what may become context; None if it trains or is not read."""
        if not self.two_stage.second_stage.reads_dataset_embeddings:
            return None
        if self.config.train_first_stage or not self.encoder.config.normalize_first_stage:
            return None
        if data.dataset_embeddings is not None:
            return data.dataset_embeddings
        documents = data.context_candidates(self.config, self.args.max_steps)
        folder, surrogate = output / "dataset_embeddings", FirstStage(self.encoder)
        with self.args.main_process_first(), self.accelerator.autocast():
            if self.args.process_index == 0:
                embed_texts(documents, surrogate, folder, identity=self.identity)
        return TextVectors.open(folder)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the numbers of the steps; every process gets all of them and builds its own part."""
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=lambda rows: rows[0])  # type: ignore[arg-type]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002
        """Take one cached step; the wrapper around the model, if there is one, takes no part in it."""
        self.laps.end("rest")
        batch = self.builder.build(inputs["step"]).to(self.args.device)
        self.laps.end("batch")
        self.two_stage.train()  # for gradient checkpointing; neither stage has dropout
        how = Chunking(self._pad, self.config.chunk_size, self.accelerator.autocast, self.laps.end)
        result = cached_step(self.two_stage, batch, self.config.temperature, how)
        if not torch.isfinite(result.loss):
            raise FloatingPointError(
                f"the loss of step {inputs['step']} is {result.loss.item()}; lower the learning rate, or use fp32"
            )
        self._figures = {
            "accuracy": result.accuracy.item(),
            "context": float(batch.context_documents),
            "first_stage_gradient": gradient_norm(self.two_stage.first_stage),
            "second_stage_gradient": gradient_norm(self.two_stage.second_stage),
        }
        return result.loss

    def _pad(self, ids: Any) -> tuple[Tensor, Tensor]:
        input_ids, mask = (torch.as_tensor(part, device=self.args.device) for part in self.tokenizer.pad(ids))
        return input_ids, mask

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:  # noqa: ARG002
        """Return AdamW over the groups of `parameter_groups`."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(parameter_groups(self.two_stage, self.config), fused=True)
        return self.optimizer

    # Measuring and logging

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the development set under a context of its corpus, in the form that the model is judged in."""
        assert self.development is not None  # eval_strategy is "no" otherwise
        self.laps.end("rest")
        self.two_stage.eval()
        measured = self.encoder.fork()
        with self.accelerator.autocast(), warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # the same texts are cut in every measurement
            parts, source = judged_parts(self.encoder), self.development.documents
            ranking = rank_in_context(measured, self.development, source, parts=parts, seed=self.config.seed)
        means = measure(self.development, ranking).means()
        self.laps.end("measuring")
        metrics = {f"eval_{METRIC}": means["ndcg_at_10"], "eval_recall@100": means["recall_at_100"]}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; beside the loss of a step also its accuracy, context size, gradients, times and the gate."""
        if "loss" in logs:
            logs |= self._figures | self.laps.take()
            gate = getattr(self.two_stage.second_stage, "gate", None)
            if isinstance(gate, Tensor):
                logs |= {"gate_mean": gate.mean().item(), "gate_max": gate.max().item()}
        super().log(logs, start_time)

    # Saved states

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Write the model as a checkpoint of ours."""
        if self.args.should_save:
            write_model(Path(str(output_dir)), self.encoder, self.config)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:  # noqa: ARG002
        load_model(Path(resume_from_checkpoint), self.encoder, self.config)

    def _load_best_model(self) -> None:
        load_model(Path(str(self.state.best_model_checkpoint)), self.encoder, self.config)


def gradient_norm(stage: nn.Module) -> float:
    """Return the norm of a stage's gradient, 0 for a stage that is not trained."""
    gradients = [parameter.grad for parameter in stage.parameters() if parameter.grad is not None]
    return float(nn.utils.get_total_norm(gradients))


def _arguments(config: TrainConfig, output: Path, steps: int, measured: bool) -> TrainingArguments:
    """Return the settings in the words of the `Trainer`, which also measures and saves at the end of a run."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(output / "tensorboard")  # read when the logger starts
    return TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        warmup_steps=config.warmup_steps if config.warmup_steps < steps else steps // 2,
        max_grad_norm=config.max_grad_norm,
        use_cpu=default_device() == "cpu",
        bf16=config.precision == "bf16",
        eval_strategy="steps" if measured else "no",
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        save_total_limit=3,
        load_best_model_at_end=measured,
        metric_for_best_model=METRIC,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        report_to=list(config.report_to),
        seed=config.seed,
    )
