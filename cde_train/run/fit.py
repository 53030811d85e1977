"""Run `cde-train fit`: from data to a checkpoint that `CDEEmbedding` loads, in steps that resume.

    start        the model to start from, as a checkpoint
    data         pairs (made from documents, if there are only these); a part of them held out for the report, and
                 another to choose the best weights by, where a phase measures
    vectors      each text once, by the surrogate
    clusters     pairs that are hard for each other
    phases       one after the other (`cde_train.run.phases`)
    prior        where there is no phase: what is counted in place of training
    report       what came of it, beside the start, BM25, plain vectors, both and soft whitening, on what was held out
    result       checkpoint, model card and report in OUT

Everything between lies in ``OUT/work`` and may be deleted afterwards. Run again with the same arguments, a run goes on
at the first step that is not done (`cde_train.run.folder`). Under ``torchrun`` the first process does every step but
training, and the others wait.
"""

import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from cde_retriever.backends.pytorch import as_dtype
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.pairs import documents_by_domain
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.evaluation.comparison import compare
from cde_train.evaluation.model_card import ModelCard, write_model_card
from cde_train.evaluation.verdicts import advise, verdicts
from cde_train.run.base import idle_settings, resolve
from cde_train.run.config import to_toml
from cde_train.run.costs import affordable_documents
from cde_train.run.delivery import deliver
from cde_train.run.distil import Distillation
from cde_train.run.environment import describe_environment
from cde_train.run.folder import MODEL, REPORT_FOLDER, START, Report, RunFolder
from cde_train.run.phases import Phases
from cde_train.run.preparation import HELD_OUT, Preparation
from cde_train.run.sections import RunConfig, refuse
from cde_train.training.processes import is_first_process, one_at_a_time, started_processes
from cde_train.training.start import open_start
from cde_train.training.term_prior import estimate_prior

Say = Callable[[str], None]
WITH_HEAD = "An encoder with a corpus head, which searches by vector and words together or by one vector"
REPORT_PASSES = 4
"""How often the report encodes a document at most: without context, under null and own context, and by the start."""


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
        OSError: if another process works on the same folder.
    """
    config, count = resolve(config), started_processes()
    refuse(
        [
            f"phase.{i}.batch_size is {phase.batch_size}, expected a multiple of {count}, the number of processes"
            for i, phase in enumerate(config.phase)
            if phase.batch_size % count
        ]
    )
    if idle := idle_settings(config):
        say(f"{', '.join(idle)} change nothing: beneath a corpus head training sees no context")
    run = Distillation if config.distillation.steps else _Fit
    return run(Path(data), Path(output), config, say).run()


class _Fit:
    def __init__(self, data: Path, output: Path, config: RunConfig, say: Say) -> None:
        self.data, self.output, self.config = data, output, config
        self.folder = RunFolder(output, say, one_at_a_time())
        self.work = self.folder.work
        self.preparation = Preparation(self.folder, config, lambda: self._start)
        self.phases = Phases(data, self.preparation)

    def run(self) -> Report:
        own = [Path(phase.data) for phase in self.config.phase if phase.data]
        with self.folder.claim(self.config, [self.data, *own], describe_environment(), is_first_process()):
            self.folder.step("start", [START], self._write_start, uses=["model", "phase.0.seed"])
            model = self.phases.train() if self.config.phase else self._count()
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
            "context_attention": settings.context_attention,
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
            encoder.save_pretrained(self.work / MODEL, dtype=as_dtype(self.config.model.dtype))
            return {"domains": len(documents), "documents": sum(map(len, documents.values()))}

        self.folder.step("prior", [MODEL], write)
        return self.work / MODEL

    def _compare(self, model: Path) -> Report:
        """Measure the result beside the start and every baseline on what was held out, and write the model card."""
        trained = ContextualEncoder.from_pretrained(model)
        sample = self.preparation.affordable(read_retrieval_set(self.work / HELD_OUT), self._affordable())
        documents, queries = len(sample.data.documents), len(sample.data.queries)
        self.folder.say(
            f"report: asks {queries} held-out queries of {documents} documents, of the result and its rivals"
        )
        comparison = compare(trained, [sample.data], start=self._start, show_progress=True)
        data, base = (self.folder.done("data") or {}) | self.phases.too_small(), self.config.model.start
        card = ModelCard(
            name=trained.config.name,
            what=ModelCard.what if trained.head_settings is None else WITH_HEAD,
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
        return found | {"documents": len(sample.data.documents), "of": sample.whole} | self.phases.too_small()

    def _affordable(self) -> int:
        """Return how many documents the report can encode in a tenth of the training time."""
        if not self.config.phase:
            return sys.maxsize
        steps = {p: int((self.folder.done(f"{p.name} training") or {})["steps"]) for p in self.config.phase}
        pairs, start = self.phases.prepared.pairs, self._start
        return int(sum(affordable_documents(p, n, pairs, start) for p, n in steps.items()) / REPORT_PASSES)
