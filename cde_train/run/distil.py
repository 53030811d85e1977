"""Run `cde-train fit --config distil`: learn the few numbers of a short vector on a user's documents.

    start          the encoder as a checkpoint with a short vector, or the checkpoint that has one
    data           as in `cde_train.run.fit`: pairs, made from documents if there are only these; a part held out
    vectors        plain vectors of documents, in ``vectors``, and of queries, in ``query_vectors``; each text once
    distillation   the numbers, by the rankings of a teacher that knows all words of the documents
    report         what came of it on what was held out, beside the start, plain vectors, BM25, both of these together,
                   null and foreign context
    result         what was learned if it is better than the start beyond chance, the start if not

The same held-out queries decide and judge: there are two models to choose from, and the start is one of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.backends.pytorch import as_dtype
from cde_retriever.checkpoint.folder import find_checkpoint
from cde_retriever.checkpoint.kinds import CDE, kind_of
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.sampling import hash_text
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.distillation.judging import compare_learned
from cde_train.distillation.lessons import choose, learn
from cde_train.distillation.teacher import Vectors
from cde_train.evaluation.model_card import ModelCard, write_model_card
from cde_train.evaluation.verdicts import advise, verdicts
from cde_train.run.config import to_toml
from cde_train.run.delivery import deliver
from cde_train.run.environment import describe_environment
from cde_train.run.folder import MODEL, REPORT_FOLDER, START, Report, RunFolder
from cde_train.run.preparation import HELD_OUT, Preparation, pieces
from cde_train.run.sections import RunConfig
from cde_train.training.processes import is_first_process, one_at_a_time
from cde_train.training.start import reading_of
from cde_train.vectors.surrogate import embed_texts

QUERY_VECTORS = "query_vectors"
RIVALS = ("start", "plain", "null", "foreign", "mixture", "bm25")
FOREIGN_DOCUMENTS = 128
FOREIGN = "Foreign context: the reference of the Python language."
THE_START = "the start, the same vector with numbers learned on other corpora, which this checkpoint is"
WHAT = "An encoder with a short vector that knows the corpus it searches"
KEPT = (
    "What was learned is not better than the start beyond chance, so this checkpoint is the start; the corpus context "
    "below is that of what was learned, which is in work/model."
)


class QueryEncoder:
    """The plain encoder of queries, as `embed_texts` calls one."""

    def __init__(self, encoder: ContextualEncoder) -> None:
        self.encoder = encoder.without_context()

    def encode(self, sentences: list[str], /, **options: Any) -> Any:
        """Return plain vectors, (n, d)."""
        return self.encoder.encode_queries(sentences, parts="dense", batch_size=int(options.get("batch_size", 32)))


class Distillation:
    """One run; arguments and errors are those of `cde_train.run.fit.fit`."""

    def __init__(self, data: Path, output: Path, config: RunConfig, say: Callable[[str], None]) -> None:
        self.data, self.config, self.settings = data, config, config.distillation
        self.folder = RunFolder(output, say, one_at_a_time())
        self.work = self.folder.work
        self.preparation = Preparation(self.folder, config, lambda: self._start)

    def run(self) -> Report:
        """Learn, or go on, and return what came of it."""
        with self.folder.claim(self.config, [self.data], describe_environment(), is_first_process()):
            uses = [f"model.{name}" for name in ("base", "name", "dtype", "max_length", "context_size")]
            uses.append("distillation.vector_size")
            self.folder.step("start", [START], self._write_start, uses=uses)
            pairs = self.preparation.read("data", self.data, sets_aside=True)
            uses = ["surrogate", "distillation"]
            learning = self.folder.step("distillation", [MODEL], lambda: self._learn(pairs), uses=uses)
            report = self.folder.step("report", [REPORT_FOLDER], lambda: self._compare(learning))
            model = MODEL if report["delivered"] == "what was learned" else START
            return deliver(self.folder, self.work / model, self.work / REPORT_FOLDER)

    def _write_start(self) -> Report:
        model, folder = self.config.model, find_checkpoint(self.config.model.start)[0]
        changes: dict[str, Any] = {"name": model.name or self.folder.output.resolve().name}
        reading, is_plain = reading_of(folder), kind_of(folder) != CDE
        if is_plain:
            reading = replace(reading, max_length=model.max_length)
        encoder = ContextualEncoder.from_spec(ModelSpec(model.start, device="cpu", reading=reading))
        if is_plain:
            width = encoder.backend.dimension
            size = self.settings.vector_size or width
            if size > width:
                raise ConfigError(
                    f"distillation.vector_size is {size}, but vectors of {model.start} have {width} numbers; give at "
                    "most so many, or 0 for those"
                )
            changes["corpus_head"] = HeadSettings.short(size).to_dict()
            changes["context_size"] = model.context_size or ModelConfig.context_size
        self._save(encoder, START, **changes)
        head = encoder.head_settings
        assert head is not None
        report = {"base": model.start, "numbers": encoder.dimension, "max_length": encoder.config.max_length}
        return report | _numbers(head)

    def _save(self, encoder: ContextualEncoder, place: str, **changes: Any) -> None:
        """Write an encoder, changed, as a checkpoint of the work folder."""
        opened = encoder.open_model()
        opened.config = replace(opened.config, **changes)
        encoder.save_pretrained(self.work / place, dtype=as_dtype(self.config.model.dtype))

    @cached_property
    def _start(self) -> ContextualEncoder:
        return ContextualEncoder.from_pretrained(self.work / START)

    def _plain(self, documents: Sequence[str], queries: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return plain unit vectors of documents, (n, d), and queries, (q, d), each text embedded once in a run."""
        asked = embed_texts(
            queries,
            QueryEncoder(self._start),
            self.work / QUERY_VECTORS,
            identity=self._start.identity.sha256,
            batch_size=self.config.surrogate.batch_size,
            label="Embedding queries",
        )
        return self.preparation.embed(documents).take(documents), asked.take(queries)

    def _learn(self, pairs: Sequence[TrainingPair]) -> Report:
        start, settings = self._start, self.settings
        assert start.head_settings is not None
        chosen = choose(pairs, settings)
        searched = pieces((self.folder.done("data") or {}).get("kind", ""))
        self.folder.say(
            f"distillation: learns from {len(chosen.queries)} queries and {len(chosen.documents)} {searched}; what of "
            "them has no vector yet is embedded"
        )
        vectors = self._plain(chosen.documents, chosen.queries)
        learned = learn(chosen, vectors, start.head_settings, start.config.context_size, settings)
        encoder = ContextualEncoder.from_pretrained(self.work / START, device="cpu")
        self._save(encoder, MODEL, corpus_head=learned.head.to_dict())
        texts = {"queries": len(chosen.queries), searched: len(chosen.documents)}
        return texts | {"divergence_before": learned.before, "divergence": learned.after} | _numbers(learned.head)

    def _compare(self, learning: Report) -> Report:
        """Measure what was learned beside the start and others on what was held out, and write the model card."""
        held_out = read_retrieval_set(self.work / HELD_OUT)
        learned = ContextualEncoder.from_pretrained(self.work / MODEL)
        comparison = compare_learned(
            learned, self._start, held_out, self._plain(held_out.documents, held_out.queries), foreign_documents()
        )
        better = any(d.rival == "start" and d.verdict == "beats" for d in comparison.differences())
        data = self.folder.done("data") or {}
        advice = advise(comparison, THE_START)
        card = ModelCard(
            name=learned.config.name,
            what=WHAT,
            comparison=comparison,
            base_model=self.config.model.start,
            data={"source": str(self.data), **data},
            compute={"start": self.folder.done("start"), "distillation": learning},
            settings=to_toml(self.config, self.folder.used()),
            sample=f"{'' if better else KEPT + ' '}Measured on the full corpus. {FOREIGN}",
            rivals=RIVALS,
            advice=advice,
            queries_made=data.get("kind") == "documents",
        )
        write_model_card(self.work / REPORT_FOLDER, card)
        delivered = "what was learned" if better else "the start"
        return {"delivered": delivered, "advice": advice, "verdicts": verdicts(comparison, RIVALS)}


def foreign_documents() -> list[str]:
    """Return documents of a corpus that is nobody's own and lies on every machine, in paragraphs."""
    parts = [part for text in topics.values() for part in text.split("\n\n") if len(part.split()) > 5]
    return sorted(set(parts), key=hash_text)[:FOREIGN_DOCUMENTS]


def _numbers(head: HeadSettings) -> Report:
    return {name: getattr(head, name) for name in ("directions", "topics", "levelling", "topic_weight")}
