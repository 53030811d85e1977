"""`cde-train fit`: from data to a checkpoint that `CDEEmbedding` loads, in steps that resume.

    start        the model to start from, as a checkpoint
    data         pairs (made from documents, if there are only these); a part of them held out for the report, and
                 another to choose the best weights by, where a phase measures
    vectors      each text once, by the surrogate
    negatives    hard negatives, where a phase wants more than the pairs bring
    clusters     pairs that are hard for each other
    per phase: batches, filter report, training, model
    prior        where there is no phase: what is counted in place of training
    report       what came of it, beside the start, BM25 and PCA whitening, on what was held out
    result       checkpoint, model card and report in OUT

Everything between lies in ``OUT/work`` and may be deleted afterwards. Run again with the same arguments, a run goes on
at the first step that is not done (`cde_train.run.folder`). Under ``torchrun`` the first process does every step but
training, and the others wait.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch

from cde_retriever.backends.pytorch import as_dtype
from cde_retriever.checkpoint.folder import CONFIG_NAME, find_checkpoint
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import replacing, write_atomically
from cde_train.batching.clustering import Clustering, cluster_pairs
from cde_train.batching.false_negatives import report_batches
from cde_train.batching.hard_negatives import mine
from cde_train.batching.packing import load_batches, packer, save_batches
from cde_train.batching.pair_vectors import views
from cde_train.data.holdout import hold_out as hold_out_pairs
from cde_train.data.holdout import leave_out_copies
from cde_train.data.pairs import TrainingPair, documents_by_domain, texts_of, write_pairs
from cde_train.data.pseudo_queries import RoundTrip, make_pairs, round_trip_filter
from cde_train.data.readers import TrainingData, read_data, read_pairs, size_for
from cde_train.data.retrieval_sets import RetrievalSet, read_retrieval_set, write_retrieval_set
from cde_train.evaluation.comparison import compare
from cde_train.evaluation.model_card import ModelCard, verdicts, write_model_card
from cde_train.run.config import to_toml
from cde_train.run.folder import Report, RunFolder
from cde_train.run.sections import PhaseConfig, RunConfig
from cde_train.training.batches import TrainingSet
from cde_train.training.config import TrainConfig
from cde_train.training.low_rank import config_seen_from, merge_low_rank, write_low_rank
from cde_train.training.processes import is_first_process, one_at_a_time
from cde_train.training.start import is_cde_checkpoint, open_start
from cde_train.training.term_prior import estimate_prior
from cde_train.training.trainer import train
from cde_train.vectors.surrogate import Surrogate, embed_texts, open_surrogate
from cde_train.vectors.text_vectors import TextVectors

Say = Callable[[str], None]
PAIRS = "pairs.jsonl"
START, VECTORS, HELD_OUT, DEVELOPMENT = "start", "vectors", "held_out", "development"
MODEL, STATES, REPORT_FOLDER = "model", "states", "report"
CLUSTERS, BATCHES, FILTER = "clusters.safetensors", "batches.npy", "filter.json"


def fit(data: str | os.PathLike[str], output: str | os.PathLike[str], config: RunConfig, *, say: Say) -> Report:
    """Train, or go on training, and return what came of it.

    Args:
        data: Pairs or documents; see `cde_train.data.readers.read_data`.
        output: Folder of the result.
        config: The run.
        say: Told what each step did.

    Raises:
        FileNotFoundError: if there are no data.
        ConfigError: if the configuration contradicts the model it starts from.
        ArtifactError: if the folder belongs to another run, or a file of it is damaged.
        TrainingDataError: if the data cannot be trained on.
    """
    return _Fit(Path(data), Path(output), config, say).run()


@dataclass(frozen=True)
class _Prepared:
    """One source of pairs, ready for packing."""

    pairs: list[TrainingPair]
    clustering: Clustering


class _Fit:
    def __init__(self, data: Path, output: Path, config: RunConfig, say: Say) -> None:
        self.data, self.output, self.config = data, output, config
        self.folder = RunFolder(output, say, one_at_a_time())
        self.work = self.folder.work

    def run(self) -> Report:
        own = [Path(phase.data) for phase in self.config.phase if phase.data]
        self.folder.claim(self.config, [self.data, *own])
        self.folder.step("start", [START], self._write_start)
        model = self.work / START
        for phase in self.config.phase:
            model = self._phase(phase, model)
        if not self.config.phase:
            model = self._count()
        self.folder.step("report", [REPORT_FOLDER], lambda: self._compare(model))
        return self._deliver(model)

    # The start

    def _write_start(self) -> Report:
        name = self.config.model.name or self.output.resolve().name
        seed = self.config.phase[0].seed if self.config.phase else 0
        encoder = open_start(self.config.model.base or None, self.config.start_of(name), seed)
        encoder.save_pretrained(self.work / START, dtype=torch.float32)
        config = encoder.config
        return {
            "base": self.config.model.base or "the bundled checkpoint",
            "context_attention": config.context_attention,
            "max_length": config.max_length,
        }

    @cached_property
    def _start(self) -> ContextualEncoder:
        return ContextualEncoder.from_pretrained(self.work / START)

    @cached_property
    def _surrogate(self) -> tuple[Surrogate, str]:
        return open_surrogate(self.config.surrogate, lambda: self._start)

    # The data

    def _prepare(self, name: str, source: Path, *, hold_out: bool) -> _Prepared:
        """Read a source of pairs and cluster it; its files are in a folder of the work folder."""
        pairs, place = self._pairs(name, source, hold_out=hold_out), self.work / name
        self.folder.step(f"{name} vectors", [], lambda: {"texts": len(self._embed(texts_of(pairs)))})
        vectors = TextVectors.open(self.work / VECTORS)
        self.folder.step(
            f"{name} clusters", [f"{name}/{CLUSTERS}"], lambda: self._cluster(pairs, vectors, place / CLUSTERS)
        )
        return _Prepared(pairs, Clustering.load(place / CLUSTERS))

    def _pairs(self, name: str, source: Path, *, hold_out: bool) -> list[TrainingPair]:
        """Read a source of pairs into a folder of the work folder."""
        place = self.work / name
        files = [f"{name}/{PAIRS}", *(self._set_aside if hold_out else {})]
        self.folder.step(name, files, lambda: self._read(source, place, hold_out))
        return read_pairs(place / PAIRS)

    def _embed(self, texts: Sequence[str]) -> TextVectors:
        encoder, identity = self._surrogate
        settings = self.config.surrogate
        return embed_texts(
            texts,
            encoder,
            self.work / VECTORS,
            identity=identity,
            prompt=settings.prompt,
            batch_size=settings.batch_size,
        )

    def _read(self, source: Path, place: Path, hold_out: bool) -> Report:
        """Read or make pairs, set a part of them aside, and write both down."""
        place.mkdir(exist_ok=True)
        found = read_data(source, lambda: size_for(self._start))
        report: Report = {"kind": found.kind, "documents": len(found.documents), "skipped": found.skipped}
        pairs, sources = found.pairs, None
        if not pairs:
            trip = self._make_pairs(found)
            pairs, sources = trip.made.pairs, trip.made.sources
            report |= {"round_trip_kept": trip.kept, "round_trip_dropped": trip.dropped}
        before = len(pairs)
        if hold_out:
            made_of = {id(pair): source for pair, source in zip(pairs, sources or (), strict=bool(sources))}
            for part, seed in self._set_aside.items():
                settings = replace(self.config.held_out, seed=seed)
                left = [made_of[id(pair)] for pair in pairs] if made_of else None
                pairs, data = hold_out_pairs(pairs, found.documents, settings, sources=left)
                write_retrieval_set(data, self.work / part)
                report[f"{part}_queries"] = len(data.queries)
        else:
            held_out = [read_retrieval_set(self.work / part) for part in self._set_aside]
            pairs = leave_out_copies(pairs, held_out)
        write_pairs(pairs, place / PAIRS)
        return report | {"held_out_pairs_and_copies": before - len(pairs), "pairs": len(pairs)}

    @property
    def _set_aside(self) -> dict[str, int]:
        """What is set aside of the data, and the seed by which: nothing that chose the weights judges them."""
        seed = self.config.held_out.seed
        return {HELD_OUT: seed} | ({DEVELOPMENT: seed + 1} if any(p.eval_steps for p in self.config.phase) else {})

    def _make_pairs(self, found: TrainingData) -> RoundTrip:
        """Make pairs of documents, and keep those whose query finds its document."""
        settings = self.config.pseudo_queries
        made = make_pairs(found.documents, found.domain, settings)
        return round_trip_filter(made, self._embed([*texts_of(made.pairs), *made.sources]), settings)

    def _cluster(self, pairs: list[TrainingPair], vectors: TextVectors, file: Path) -> Report:
        domains = [pair.domain for pair in pairs]
        clustering = cluster_pairs(*views(pairs, vectors), domains, self.config.clustering)
        clustering.save(file)
        return {"clusters": len(clustering.sizes), "largest": int(clustering.sizes.max())}

    @cached_property
    def _main(self) -> _Prepared:
        return self._prepare("data", self.data, hold_out=True)

    @cached_property
    def _development(self) -> RetrievalSet | None:
        return read_retrieval_set(self.work / DEVELOPMENT) if DEVELOPMENT in self._set_aside else None

    # No phase

    def _count(self) -> Path:
        """Give the start a prior counted on the data, and return the folder of the model that this makes."""
        documents = documents_by_domain(self._pairs("data", self.data, hold_out=True))

        def write() -> Report:
            encoder = ContextualEncoder.from_pretrained(self.work / START)
            estimate_prior(encoder, documents)
            encoder.save_pretrained(self.work / MODEL, dtype=self._dtype)
            return {"domains": len(documents), "documents": sum(map(len, documents.values()))}

        self.folder.step("prior", [MODEL], write)
        return self.work / MODEL

    # A phase

    def _phase(self, phase: PhaseConfig, start: Path) -> Path:
        """Train one phase and return the folder of its model."""
        prepared = self._main  # first, because it says what is held out
        if phase.data:
            prepared = self._prepare(f"data-{phase.name}", Path(phase.data), hold_out=False)
        place = self.work / f"phase-{phase.name}"
        place.mkdir(exist_ok=True)
        if phase.hard_negatives:
            prepared = self._with_negatives(phase, prepared, place)
        self._step(phase, "batches", [BATCHES, FILTER], lambda: self._pack(phase, prepared, place))
        if self.folder.done(f"{phase.name} training") is None:
            self._train(phase, prepared, start, place)
        return place / MODEL

    def _step(self, phase: PhaseConfig, name: str, files: Sequence[str], do: Callable[[], Report]) -> Report:
        return self.folder.step(f"{phase.name} {name}", [f"phase-{phase.name}/{file}" for file in files], do)

    def _with_negatives(self, phase: PhaseConfig, prepared: _Prepared, place: Path) -> _Prepared:
        """Return the pairs that have, or can be given, as many hard negatives as the phase uses."""

        def search() -> Report:
            vectors = TextVectors.open(self.work / VECTORS)
            found = mine(prepared.pairs, self.config.mining_of(phase), queries=vectors, documents=vectors)
            write_pairs(found.pairs, place / PAIRS)
            return asdict(found.report)

        self._step(phase, "negatives", [PAIRS], search)
        pairs = read_pairs(place / PAIRS)
        enough = [i for i, pair in enumerate(pairs) if len(pair.negatives) >= phase.hard_negatives]
        return _Prepared(
            [pairs[i] for i in enough], replace(prepared.clustering, labels=prepared.clustering.labels[enough])
        )

    def _pack(self, phase: PhaseConfig, prepared: _Prepared, place: Path) -> Report:
        vectors = TextVectors.open(self.work / VECTORS)
        packing = packer(prepared.pairs, vectors, prepared.clustering, self.config.packing_of(phase))
        batches = packing.run(steps=phase.steps, epochs=phase.epochs)
        save_batches(place / BATCHES, batches)
        one_epoch = batches[: packing.report.batches]
        report = report_batches(prepared.pairs, one_epoch, self.config.filtering, queries=vectors, documents=vectors)
        write_atomically(place / FILTER, report.to_json().encode())
        return {
            "batches": len(batches),
            "batches_an_epoch": packing.report.batches,
            "pairs_left_over": packing.report.left_over,
            "pairs_of_domains_too_small": sum(packing.report.left_out.values()),
            "negatives": report.total.candidates,
            "false_negatives": report.total.false_negatives,
            "duplicates": report.total.duplicates,
        }

    def _train(self, phase: PhaseConfig, prepared: _Prepared, start: Path, place: Path) -> None:
        encoder = ContextualEncoder.from_pretrained(start)
        vectors = TextVectors.open(self.work / VECTORS)
        data = TrainingSet(
            prepared.pairs,
            load_batches(place / BATCHES, pairs=len(prepared.pairs)),
            vectors,
            self.config.filtering,
            vectors if self._are_dataset_embeddings() else None,
        )
        settings = TrainConfig(**{f.name: getattr(phase, f.name) for f in fields(TrainConfig)})
        result = train(encoder, data, settings, place / STATES, development=self._development)

        def keep() -> Report:
            self._keep(encoder, phase, place / MODEL)
            return {"steps": result.steps, "best_step": result.best_step, "best_ndcg_at_10": result.best_ndcg_at_10}

        self._step(phase, "training", [MODEL], keep)

    def _are_dataset_embeddings(self) -> bool:
        """Whether the surrogate's vectors are the first stage's, and that stays as it is through all phases."""
        own = not self.config.surrogate.model and not any(phase.train_first_stage for phase in self.config.phase)
        return own and self._start.config.normalize_first_stage

    def _keep(self, encoder: ContextualEncoder, phase: PhaseConfig, folder: Path) -> None:
        """Write a phase's model: low-rank updates alone if they are all that was trained on a CDE checkpoint."""
        base = self.config.model.base or None
        if phase.lora_rank and len(self.config.phase) == 1 and is_cde_checkpoint(find_checkpoint(base)[0]):
            write_low_rank(folder, encoder, base)
            return
        if phase.lora_rank:
            merge_low_rank(encoder.model)
        encoder.save_pretrained(folder, dtype=self._dtype if phase is self.config.phase[-1] else torch.float32)

    @property
    def _dtype(self) -> torch.dtype | None:
        return as_dtype(self.config.model.dtype)

    # The result

    def _compare(self, model: Path) -> Report:
        """Measure the result beside the start and every baseline on what was held out, and write the model card."""
        trained = ContextualEncoder.from_pretrained(model)
        comparison = compare(trained, [read_retrieval_set(self.work / HELD_OUT)], start=self._start, show_progress=True)
        card = ModelCard(
            name=trained.config.name,
            comparison=comparison,
            base_model=self.config.model.base or "cde-retriever's bundled checkpoint",
            data={"source": str(self.data), **(self.folder.done("data") or {})},
            compute={phase.name: self.folder.done(f"{phase.name} training") for phase in self.config.phase}
            or {"nothing was trained": self.folder.done("prior")},
            settings=to_toml(self.config),
        )
        write_model_card(self.work / REPORT_FOLDER, card)
        return {"verdicts": verdicts(comparison)}

    def _deliver(self, model: Path) -> Report:
        """Put the result into the output folder, ``config.json`` last: a checkpoint that is there is whole."""
        with self.folder.one_at_a_time():
            report = self.folder.done("report") or {}
            if is_first_process():
                for file in [*(self.work / REPORT_FOLDER).iterdir(), *model.iterdir()]:
                    if file.name != CONFIG_NAME:
                        _copy(file, self.output / file.name)
                config = config_seen_from(self.output, model / CONFIG_NAME)
                write_atomically(self.output / CONFIG_NAME, config)
        return {"checkpoint": str(self.output), **report}


def _copy(file: Path, target: Path) -> None:
    """Copy a file so that a killed process leaves the old one or the new one."""
    with file.open("rb") as source, replacing(target) as copy:
        shutil.copyfileobj(source, copy)
