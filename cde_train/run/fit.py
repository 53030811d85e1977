"""Run `cde-train fit`: from data to a checkpoint that `CDEEmbedding` loads, in steps that resume.

    start        the model to start from, as a checkpoint
    data         pairs (made from documents, if there are only these); a part of them held out for the report, and
                 another to choose the best weights by, where a phase measures
    vectors      each text once, by the surrogate
    negatives    hard negatives, where a phase wants more than the pairs bring
    clusters     pairs that are hard for each other
    per phase: batches, filter report, training, model
    prior        where there is no phase: what is counted in place of training
    report       what came of it, beside the start, BM25, BM25 + plain and PCA whitening, on what was held out
    result       checkpoint, model card and report in OUT

Everything between lies in ``OUT/work`` and may be deleted afterwards. Run again with the same arguments, a run goes on
at the first step that is not done (`cde_train.run.folder`). Under ``torchrun`` the first process does every step but
training, and the others wait.
"""

import os
import sys
import warnings
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
from cde_train.batching.packing import load_batches, packer, save_batches
from cde_train.data.pairs import documents_by_domain, write_pairs
from cde_train.data.readers import read_pairs
from cde_train.data.retrieval_sets import read_retrieval_set, write_retrieval_set
from cde_train.evaluation.comparison import compare
from cde_train.evaluation.model_card import ModelCard, write_model_card
from cde_train.evaluation.verdicts import advise, verdicts
from cde_train.run.base import resolve
from cde_train.run.config import to_toml
from cde_train.run.costs import affordable_documents
from cde_train.run.delivery import deliver
from cde_train.run.distil import Distillation
from cde_train.run.environment import describe_environment
from cde_train.run.folder import Report, RunFolder
from cde_train.run.preparation import DEVELOPMENT, HELD_OUT, PAIRS, VECTORS, Preparation, Prepared
from cde_train.run.sections import PhaseConfig, RunConfig, refuse
from cde_train.training.batches import TrainingSet
from cde_train.training.config import TrainConfig
from cde_train.training.low_rank import merge_low_rank, write_low_rank
from cde_train.training.processes import is_first_process, one_at_a_time, started_processes
from cde_train.training.start import open_start
from cde_train.training.term_prior import estimate_prior
from cde_train.training.trainer import train
from cde_train.vectors.text_vectors import TextVectors

Say = Callable[[str], None]
START, MODEL, STATES, REPORT_FOLDER = "start", "model", "states", "report"
REPORT_PASSES = 4
"""How often the report encodes a document: without context, under null and own context, and by the start."""
BATCHES, FILTER = "batches.npy", "filter.json"


def fit(data: str | os.PathLike[str], output: str | os.PathLike[str], config: RunConfig, *, say: Say) -> Report:
    """Train, or go on training, and return what came of it.

    Args:
        data: Pairs or documents; see `cde_train.data.readers.read_data`.
        output: Folder of the result.
        config: The run.
        say: Told what each step did.

    Raises:
        FileNotFoundError: if there are no data.
        ConfigError: if the configuration contradicts the model it starts from; nothing is written then.
        ArtifactError: if the folder belongs to another run, or a file of it is damaged.
        TrainingDataError: if the data cannot be trained on.
    """
    config, count = resolve(config), started_processes()
    refuse(
        [
            f"phase.{i}.batch_size is {phase.batch_size}, expected a multiple of {count}, the number of processes"
            for i, phase in enumerate(config.phase)
            if phase.batch_size % count
        ]
    )
    run = Distillation if config.distillation.steps else _Fit
    return run(Path(data), Path(output), config, say).run()


class _Fit:
    def __init__(self, data: Path, output: Path, config: RunConfig, say: Say) -> None:
        self.data, self.output, self.config = data, output, config
        self.folder = RunFolder(output, say, one_at_a_time())
        self.work = self.folder.work
        self.preparation = Preparation(self.folder, config, lambda: self._start)

    def run(self) -> Report:
        own = [Path(phase.data) for phase in self.config.phase if phase.data]
        self.folder.claim(self.config, [self.data, *own], describe_environment())
        self.folder.step("start", [START], self._write_start, uses=["model", "phase.0.seed"])
        model = self._train_phases() if self.config.phase else self._count()
        self.folder.step("report", [REPORT_FOLDER], lambda: self._compare(model))
        return deliver(self.folder, model, self.work / REPORT_FOLDER)

    def _write_start(self) -> Report:
        settings = self.config.model
        seed = self.config.phase[0].seed if self.config.phase else 0
        start = self.config.start_of(settings.name or self.output.resolve().name)
        encoder = open_start(settings.start, start, seed)
        encoder.save_pretrained(self.work / START, dtype=torch.float32)
        return {
            "base": settings.start,
            "context_attention": encoder.config.context_attention,
            "max_length": encoder.config.max_length,
        }

    @cached_property
    def _start(self) -> ContextualEncoder:
        return ContextualEncoder.from_pretrained(self.work / START)

    def _count(self) -> Path:
        """Give the start a prior counted on the data, and return the folder of the model that this makes."""
        documents = documents_by_domain(self.preparation.read("data", self.data, sets_aside=True))

        def write() -> Report:
            encoder = ContextualEncoder.from_pretrained(self.work / START)
            estimate_prior(encoder, documents)
            encoder.save_pretrained(self.work / MODEL, dtype=self._dtype)
            return {"domains": len(documents), "documents": sum(map(len, documents.values()))}

        self.folder.step("prior", [MODEL], write)
        return self.work / MODEL

    # The phases

    @cached_property
    def _prepared(self) -> Prepared:
        """The run's own pairs."""
        return self.preparation.prepare("data", self.data, sets_aside=True)

    def _train_phases(self) -> Path:
        """Train one phase after the other and return the folder of the last model."""
        model, main = self.work / START, self._prepared
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
        if len(batches) < phase.warmup_steps:
            warnings.warn(
                f"the learning rate of phase {phase.name} rises for {phase.warmup_steps} steps and it has "
                f"{len(batches)}, so it comes no higher than {len(batches) / phase.warmup_steps:.0%} of what is set; "
                "lower warmup_steps",
                stacklevel=2,
            )
        report = report_batches(
            prepared.pairs,
            batches[: packing.report.batches],  # one epoch
            self.config.filtering,
            hard_negatives=phase.hard_negatives,
            queries=vectors,
            documents=vectors,
        )
        write_atomically(self._place(phase) / FILTER, report.to_json().encode())
        return {
            "batches": len(batches),
            "batches_an_epoch": packing.report.batches,
            "pairs_left_over": packing.report.left_over,
            "pairs_of_domains_too_small": sum(packing.report.left_out.values()),
            "negatives": report.total.candidates,
            "false_negatives": report.total.false_negatives,
            "duplicates": report.total.duplicates,
        }

    def _write_development(self, phase: PhaseConfig) -> Report:
        """Write what a phase measures on: as much of the development set as costs a tenth of the steps between."""
        most = affordable_documents(phase, phase.eval_steps, self._prepared.pairs, self._start)
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
        return {"steps": result.steps, "best_step": result.best_step, "best_ndcg_at_10": result.best_ndcg_at_10}

    def _are_dataset_embeddings(self) -> bool:
        """Whether the surrogate's vectors are the first stage's, and that stays as it is through all phases."""
        own = not self.config.surrogate.model and not any(phase.train_first_stage for phase in self.config.phase)
        return own and self._start.config.normalize_first_stage

    def _keep(self, encoder: ContextualEncoder, phase: PhaseConfig) -> None:
        """Write a phase's model: low-rank updates alone if they are all that was trained on a CDE checkpoint."""
        base, folder = self.config.model.start, self._place(phase) / MODEL
        if phase.lora_rank and len(self.config.phase) == 1 and kind_of(find_checkpoint(base)[0]) == CDE:
            write_low_rank(folder, encoder, base)
            return
        if phase.lora_rank:
            merge_low_rank(encoder.open_model())
        encoder.save_pretrained(folder, dtype=self._dtype if phase is self.config.phase[-1] else torch.float32)

    @property
    def _dtype(self) -> torch.dtype | None:
        return as_dtype(self.config.model.dtype)

    # The result

    def _compare(self, model: Path) -> Report:
        """Measure the result beside the start and every baseline on what was held out, and write the model card."""
        trained = ContextualEncoder.from_pretrained(model)
        sample = self.preparation.affordable(read_retrieval_set(self.work / HELD_OUT), self._affordable())
        documents, queries = len(sample.data.documents), len(sample.data.queries)
        self.folder.say(
            f"report: asks {queries} held-out queries of {documents} documents, of the result and its rivals"
        )
        comparison = compare(trained, [sample.data], start=self._start, show_progress=True)
        data, base = self.folder.done("data") or {}, self.config.model.start
        card = ModelCard(
            name=trained.config.name,
            comparison=comparison,
            base_model=base,
            data={"source": str(self.data), **data},
            compute={phase.name: self.folder.done(f"{phase.name} training") for phase in self.config.phase}
            or {"nothing was trained": self.folder.done("prior")},
            settings=to_toml(self.config, self.folder.used()),
            sample=sample.sentence if len(sample.data.documents) < sample.whole else "",
            advice=advise(comparison, f"the model it started from ({base}; as a checkpoint in work/{START})"),
            queries_made=data.get("kind") == "documents",
        )
        write_model_card(self.work / REPORT_FOLDER, card)
        found = {"advice": card.advice, "verdicts": verdicts(comparison)}
        return found | {"documents": len(sample.data.documents), "of": sample.whole}

    def _affordable(self) -> int:
        """Return how many documents the report can encode in a tenth of the training time."""
        if not self.config.phase:
            return sys.maxsize
        steps = {p: int((self.folder.done(f"{p.name} training") or {})["steps"]) for p in self.config.phase}
        pairs, start = self._prepared.pairs, self._start
        return int(sum(affordable_documents(p, n, pairs, start) for p, n in steps.items()) / REPORT_PASSES)
