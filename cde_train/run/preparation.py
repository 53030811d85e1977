"""Prepare a source of pairs for training: read or make them, set a part aside, embed and cluster them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.batching.clustering import Clustering, cluster_pairs
from cde_train.batching.pair_vectors import views
from cde_train.data.holdout import drawn_pairs, hold_out, leave_out_copies
from cde_train.data.pairs import TrainingPair, texts_of, write_pairs
from cde_train.data.pseudo_queries import RoundTrip, make_pairs, round_trip_filter
from cde_train.data.readers import TrainingData, read_data, read_pairs
from cde_train.data.retrieval_sets import RetrievalSet, write_retrieval_set
from cde_train.errors import TrainingDataError
from cde_train.evaluation.sampled_corpus import SampledCorpus, trusted_sample
from cde_train.run.folder import Report, RunFolder
from cde_train.run.sections import RunConfig
from cde_train.vectors.surrogate import Surrogate, embed_texts, open_surrogate
from cde_train.vectors.text_vectors import TextVectors

PAIRS, VECTORS, CLUSTERS = "pairs.jsonl", "vectors", "clusters.safetensors"
HELD_OUT, DEVELOPMENT = "held_out", "development"
PAIRS_TEACH = (
    ". If you have queries of people with the documents that answer them, give those: they train an encoder to search "
    "better, which made queries have not done where it was measured (docs/figures/fitted.md)"
)
PURPOSES = {HELD_OUT: "the report", DEVELOPMENT: "choosing the best weights"}


@dataclass(frozen=True)
class Prepared:
    """Pairs, and which of them are hard for each other."""

    pairs: list[TrainingPair]
    clustering: Clustering


def pieces(kind: str) -> str:
    """Return the word for what is searched: documents without queries were cut into passages."""
    return "passages" if kind == "documents" else "documents"


class Preparation:
    """Prepares the sources of one run, as steps of its folder.

    Args:
        folder: The run's folder.
        config: The run.
        start: Gives the model that training starts from.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, start: Callable[[], ContextualEncoder]) -> None:
        self.folder, self.config, self.start = folder, config, start
        self.work = folder.work
        seed = config.held_out.seed
        # What is set aside, and by which seed: nothing that chose the weights judges them.
        self.parts = {HELD_OUT: seed}
        if any(phase.eval_steps for phase in config.phase):
            self.parts[DEVELOPMENT] = seed + 1

    def prepare(self, name: str, source: Path, *, sets_aside: bool) -> Prepared:
        """Read a source of pairs and cluster it; its files are in a folder of the work folder."""
        pairs, clusters = self.read(name, source, sets_aside=sets_aside), f"{name}/{CLUSTERS}"
        self.folder.step(f"{name} vectors", [], lambda: {"texts": len(self.embed(texts_of(pairs)))}, uses=["surrogate"])
        self.folder.step(f"{name} clusters", [clusters], lambda: self._cluster(pairs, clusters), uses=["clustering"])
        return Prepared(pairs, Clustering.load(self.work / clusters))

    def read(self, name: str, source: Path, *, sets_aside: bool) -> list[TrainingPair]:
        """Read a source of pairs into a folder of the work folder.

        Args:
            name: The folder's.
            source: What the user gave.
            sets_aside: Whether a part is held out of it; if not, what is near to what was held out before is left out.
        """
        place = self.work / name
        uses = ["data", "held_out", "phase.*.eval_steps above 0"]

        def do() -> Report:
            report = self._read(source, place, sets_aside)
            uses.extend(["surrogate", "pseudo_queries"] if report["kind"] == "documents" else [])
            return report

        files = [f"{name}/{PAIRS}", *(self.parts if sets_aside else ())]
        self.folder.step(name, files, do, uses=uses)
        return read_pairs(place / PAIRS)

    def embed(self, texts: Sequence[str]) -> TextVectors:
        """Embed the texts that have no vector yet, with the surrogate."""
        encoder, identity = self._surrogate
        settings, folder = self.config.surrogate, self.work / VECTORS
        return embed_texts(
            texts, encoder, folder, identity=identity, prompt=settings.prompt, batch_size=settings.batch_size
        )

    def affordable(self, data: RetrievalSet, most: int) -> SampledCorpus:
        """Return a set whose corpus may be measured on: itself, or a sample of so many documents that says enough."""
        if len(data.documents) <= most:
            return SampledCorpus(data, len(data.documents), 0.0)
        vectors = self.embed([*data.queries, *data.documents])
        return trusted_sample(data, vectors, most, seed=self.config.held_out.seed)

    @cached_property
    def _surrogate(self) -> tuple[Surrogate, str]:
        return open_surrogate(self.config.surrogate, self.start)

    def _read(self, source: Path, place: Path, sets_aside: bool) -> Report:
        place.mkdir(exist_ok=True)
        found = read_data(source, lambda: self.start().passage_size())
        pairs = found.pairs
        documents = found.documents or {pair.document for pair in pairs}
        report: Report = {"kind": found.kind, pieces(found.kind): len(documents), "skipped": found.skipped}
        if not pairs:
            trip = self._make_pairs(found, sets_aside)
            pairs = trip.pairs
            report |= {"made_queries_kept": trip.kept, "made_queries_dropped": trip.dropped}
        before = len(pairs)
        if sets_aside:
            for part, seed in self.parts.items():
                settings = replace(self.config.held_out, seed=seed)
                drawn = drawn_pairs(pairs, settings)
                try:
                    pairs, data = hold_out(pairs, found.documents, settings)
                except TrainingDataError as error:
                    left_out = ", ".join(f"{count} ({reason})" for reason, count in found.skipped.items())
                    raise TrainingDataError(f"{error}; left out before: {left_out or 'nothing'}") from error
                write_retrieval_set(data, self.work / part)
                write_pairs(drawn, self.work / part / PAIRS)
                report[f"{part}_queries"] = len(data.queries)
        else:
            drawn = [pair for part in self.parts for pair in read_pairs(self.work / part / PAIRS)]
            pairs = leave_out_copies(pairs, drawn)
        write_pairs(pairs, place / PAIRS)
        return report | {"held_out_pairs_and_copies": before - len(pairs), "pairs": len(pairs)}

    def _make_pairs(self, found: TrainingData, sets_aside: bool) -> RoundTrip:
        """Make pairs of documents, and keep those whose query finds its document."""
        settings = self.config.pseudo_queries
        made = make_pairs(found.documents, found.domain, settings)
        texts = list(dict.fromkeys([*texts_of(list(made)), *(pair.source for pair in made)]))
        share = f"{self.config.held_out.share:.0%} of them" + " each" * (len(self.parts) > 1)
        self.folder.say(
            f"data: {len(found.documents)} passages read, {len(made)} queries made of them; "
            + (f"{share} go to {' and '.join(PURPOSES[part] for part in self.parts)}; " if sets_aside else "")
            + f"{len(texts)} texts are embedded: passages, queries, and passages without the words that became a query"
            + PAIRS_TEACH * bool(self.config.phase)
        )
        return round_trip_filter(made, self.embed(texts), settings)

    def _cluster(self, pairs: list[TrainingPair], file: str) -> Report:
        both, domains = views(pairs, TextVectors.open(self.work / VECTORS)), [pair.domain for pair in pairs]
        clustering = cluster_pairs(*both, domains, self.config.clustering)
        clustering.save(self.work / file)
        return {"clusters": len(clustering.sizes), "largest": int(clustering.sizes.max())}
