"""Train the phases of a run one after the other, each from the model that the one before it left.

negatives    hard negatives, where the phase wants more than the pairs bring
batches      full batches of pairs that are hard for each other, and what the filter leaves out of their loss
development  what the phase measures on, where it does
training     the steps, and the model
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from cde_retriever.backends.pytorch import as_dtype
from cde_retriever.checkpoint.folder import find_checkpoint
from cde_retriever.checkpoint.kinds import CDE, kind_of
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.batching.false_negatives import report_batches
from cde_train.batching.hard_negatives import mine
from cde_train.batching.packing import load_batches, name_largest, packer, save_batches
from cde_train.data.pairs import write_pairs
from cde_train.data.readers import read_pairs
from cde_train.data.retrieval_sets import read_retrieval_set, write_retrieval_set
from cde_train.run.costs import affordable_documents
from cde_train.run.folder import MODEL, START, Report
from cde_train.run.preparation import DEVELOPMENT, PAIRS, VECTORS, Preparation, Prepared
from cde_train.run.sections import PhaseConfig
from cde_train.training.batches import TrainingSet
from cde_train.training.config import TrainConfig
from cde_train.training.low_rank import merge_low_rank, write_low_rank
from cde_train.training.processes import is_first_process
from cde_train.training.trainer import train
from cde_train.vectors.text_vectors import TextVectors

BATCHES, FILTER, STATES = "batches.npy", "filter.json", "states"
TOO_SMALL = "domains_too_small"


class Phases:
    """Trains the phases of one run, as steps of its folder.

    Args:
        data: The run's own pairs.
        preparation: Reads and clusters pairs.
    """

    def __init__(self, data: Path, preparation: Preparation) -> None:
        self.data, self.preparation = data, preparation
        self.config, self.folder, self.work = preparation.config, preparation.folder, preparation.work

    @cached_property
    def prepared(self) -> Prepared:
        """The run's own pairs."""
        return self.preparation.prepare("data", self.data, sets_aside=True)

    def train(self) -> Path:
        """Train one phase after the other and return the folder of the last model."""
        model, main = self.work / START, self.prepared
        for number, phase in enumerate(self.config.phase):
            prepared = main
            if phase.data:
                prepared = self.preparation.prepare(f"data-{phase.name}", Path(phase.data), sets_aside=False)
            (self.work / f"phase-{phase.name}").mkdir(exist_ok=True)
            if phase.hard_negatives:
                prepared = self._with_negatives(number, prepared)
            uses = ["packing", "filtering", *self._of(number, "batch_size", "steps", "epochs", "hard_negatives")]
            self._step(phase, "batches", [BATCHES, FILTER], partial(self._pack, phase, prepared), uses)
            if phase.eval_steps:
                self._step(phase, "development set", [DEVELOPMENT], partial(self._write_development, phase), [])
            training = partial(self._train, phase, prepared, model)
            self._step(phase, "training", [MODEL], training, [f"phase.{number}"], together=True)
            model = self._place(phase) / MODEL
        return model

    def too_small(self) -> Report:
        """Return which domains have fewer pairs than a batch, so that none of them is trained on, by phase; if any."""
        reports = self.folder.reports()
        packed = {phase.name: reports.get(f"{phase.name} batches", {}) for phase in self.config.phase}
        found = {name: report[TOO_SMALL] for name, report in packed.items() if TOO_SMALL in report}
        return {TOO_SMALL: found} if found else {}

    def _place(self, phase: PhaseConfig) -> Path:
        return self.work / f"phase-{phase.name}"

    @staticmethod
    def _of(number: int, *names: str) -> list[str]:
        return [f"phase.{number}.{name}" for name in ("name", "data", *names)]

    def _step(
        self,
        phase: PhaseConfig,
        name: str,
        files: Sequence[str],
        do: Callable[[], Report],
        uses: Sequence[str],
        *,
        together: bool = False,
    ) -> None:
        paths = [f"phase-{phase.name}/{file}" for file in files]
        self.folder.step(f"{phase.name} {name}", paths, do, uses=uses, together=together)

    def _with_negatives(self, number: int, prepared: Prepared) -> Prepared:
        """Return the pairs that have, or can be given, as many hard negatives as the phase uses."""
        phase = self.config.phase[number]
        file = self._place(phase) / PAIRS

        def search() -> Report:
            vectors = TextVectors.open(self.work / VECTORS)
            found = mine(prepared.pairs, self.config.mining_of(phase), queries=vectors, documents=vectors)
            write_pairs(found.pairs, file)
            return asdict(found.report)

        self._step(phase, "negatives", [PAIRS], search, ["negatives", *self._of(number, "hard_negatives")])
        pairs = read_pairs(file)
        enough = [i for i, pair in enumerate(pairs) if len(pair.negatives) >= phase.hard_negatives]
        labels = prepared.clustering.labels[enough]
        return Prepared([pairs[i] for i in enough], replace(prepared.clustering, labels=labels))

    def _pack(self, phase: PhaseConfig, prepared: Prepared) -> Report:
        vectors = TextVectors.open(self.work / VECTORS)
        packing = packer(prepared.pairs, vectors, prepared.clustering, self.config.packing_of(phase))
        batches = packing.run(steps=phase.steps, epochs=phase.epochs)
        save_batches(self._place(phase) / BATCHES, batches)
        report = report_batches(
            prepared.pairs,
            batches[: packing.report.batches],  # one epoch
            self.config.filtering,
            hard_negatives=phase.hard_negatives,
            queries=vectors,
            documents=vectors,
        )
        write_atomically(self._place(phase) / FILTER, report.to_json().encode())
        too_small = packing.report.left_out
        return {
            "batches": len(batches),
            "batches_an_epoch": packing.report.batches,
            "pairs_left_over": packing.report.left_over,
            "pairs_of_domains_too_small": sum(too_small.values()),
            **({TOO_SMALL: name_largest(too_small)} if too_small else {}),
            "negatives": report.total.candidates,
            "false_negatives": report.total.false_negatives,
            "duplicates": report.total.duplicates,
        }

    def _write_development(self, phase: PhaseConfig) -> Report:
        """Write what a phase measures on: as much of the development set as costs a tenth of the steps between."""
        most = affordable_documents(phase, phase.eval_steps, self.prepared.pairs, self.preparation.start())
        sample = self.preparation.affordable(read_retrieval_set(self.work / DEVELOPMENT), int(most))
        write_retrieval_set(sample.data, self._place(phase) / DEVELOPMENT)
        return {"documents": len(sample.data.documents), "of": sample.whole, "too_high_by": sample.error}

    def _train(self, phase: PhaseConfig, prepared: Prepared, start: Path) -> Report:
        encoder = ContextualEncoder.from_pretrained(start)
        vectors = TextVectors.open(self.work / VECTORS)
        data = TrainingSet(
            prepared.pairs,
            load_batches(self._place(phase) / BATCHES, pairs=len(prepared.pairs)),
            vectors,
            self.config.filtering,
            vectors if self._are_dataset_embeddings() else None,
        )
        settings = TrainConfig(**{f.name: getattr(phase, f.name) for f in fields(TrainConfig)})
        development = read_retrieval_set(self._place(phase) / DEVELOPMENT) if phase.eval_steps else None
        result = train(encoder, data, settings, self._place(phase) / STATES, development=development)
        if is_first_process():
            self._keep(encoder, phase)
        best = {"best_step": result.best_step, "best_ndcg_at_10": result.best_ndcg_at_10}
        return {"steps": result.steps} | (best if development else {})

    def _are_dataset_embeddings(self) -> bool:
        """Whether the surrogate's vectors are the first stage's, and that stays as it is through all phases."""
        own = not self.config.surrogate.model and not any(phase.train_first_stage for phase in self.config.phase)
        return own and self.preparation.start().config.normalize_first_stage

    def _keep(self, encoder: ContextualEncoder, phase: PhaseConfig) -> None:
        """Write a phase's model: low-rank updates alone if they are all that was trained on a CDE checkpoint."""
        base, folder = self.config.model.start, self._place(phase) / MODEL
        if phase.lora_rank and len(self.config.phase) == 1 and kind_of(find_checkpoint(base)[0]) == CDE:
            write_low_rank(folder, encoder, base)
            return
        if phase.lora_rank:
            merge_low_rank(encoder.open_model())
        last = phase is self.config.phase[-1]
        encoder.save_pretrained(folder, dtype=as_dtype(self.config.model.dtype) if last else torch.float32)
