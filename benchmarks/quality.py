"""Retrieval quality of a checkpoint beside its baselines, on every set of a folder.

    python -m benchmarks.quality CHECKPOINT EVAL_FOLDER --output docs/figures/quality.json --dtype bfloat16
    python -m benchmarks.quality --table docs/figures/quality.json

Modes: ``bm25``; ``plain``, the backbone without context (the checkpoint's first stage on both sides); ``centring``,
``whitening``, ``shrunk_whitening``, ``all_but_the_top``, fitted on the plain document vectors of the corpus; ``rrf``,
``convex_30``, ``convex_40``, ``convex_50``, BM25 and the plain backbone together (`benchmarks.mixtures`); and the
second stage under ``null``, ``foreign`` (the next set in alphabetical order, the last one takes the first) and
``corpus`` context; `--context-sizes` adds the corpus context at other sizes. For a checkpoint with a corpus head these
three rank by one vector, and ``hybrid_null``, ``hybrid_foreign`` and ``hybrid`` by two parts, dense and exact sparse.

Every finished (set, mode) is written at once and not computed again. Results of BM25 belong to the data; those of the
plain backbone to the first stage's weights, so other checkpoints with the same frozen first stage reuse them; the rest
to the checkpoint. Plain vectors are kept in the cache folder, and all modes of a corpus head are made of them
(`benchmarks.head_ranking`), so that one whose numbers have changed is measured without encoding. Cost: encoding, all
else is seconds.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.head_ranking import HYBRID_MODES, PlainTexts, fit_on_kept, rank_with_head
from benchmarks.mixtures import MIXTURES, rank_mixture
from benchmarks.quality_results import MODES, WITHOUT_CONTEXT, Results
from benchmarks.quality_table import write_table
from cde_retriever.checkpoint.reading import QUERIES
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.model.late import LateSecondStage
from cde_retriever.search.bm25 import WordSearch, score_bm25
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, hash_retrieval_set, read_retrieval_set
from cde_train.evaluation.baselines import rank_bm25
from cde_train.evaluation.comparison import rank_plain
from cde_train.evaluation.ranking import Ranking, measure, rank
from cde_train.evaluation.results import CONTEXT_MODES


@dataclass(frozen=True)
class Task:
    """One ranking to make: a mode, and for a context mode the sample's seed and size, None for the model's own."""

    mode: str
    seed: int | None
    size: int | None = None


class Bench:
    """One checkpoint and the sets it is measured on.

    Args:
        encoder: The checkpoint.
        folders: Every set's folder, alphabetical; the foreign context is chosen among these.
        cache: Where plain vectors are kept.
        dtype: Name of the encoder's dtype.
    """

    def __init__(self, encoder: ContextualEncoder, folders: Sequence[Path], *, cache: Path, dtype: str) -> None:
        self.encoder = encoder
        self.folders = list(folders)
        self.dtype = dtype
        self.first_stage = hash_first_stage(encoder)
        self.cache = cache / f"{self.first_stage[:16]}-{dtype}"
        self._data: dict[Path, tuple[RetrievalSet, str]] = {}
        self._scores: tuple[Path, list[NDArray[np.float32]]] | None = None

    def data(self, folder: Path) -> tuple[RetrievalSet, str]:
        """Return a set and the hash of its content, read once."""
        if folder not in self._data:
            data = read_retrieval_set(folder)
            self._data[folder] = data, hash_retrieval_set(data)
        return self._data[folder]

    def foreign(self, folder: Path) -> Path:
        """Return the set whose context is foreign to this one: the next in alphabetical order."""
        if len(self.folders) < 2:
            raise ValueError("a foreign context needs a second set; leave the mode out")
        return self.folders[(self.folders.index(folder) + 1) % len(self.folders)]

    def key(self, folder: Path, task: Task) -> dict[str, Any]:
        """Return what a result belongs to; two results with one key are the same measurement."""
        data, sha256 = self.data(folder)
        model, dtype = self.encoder.identity.sha256, self.dtype
        if task.mode == "bm25":
            model, dtype = f"bm25s {version('bm25s')}", ""
        elif task.mode in WITHOUT_CONTEXT:
            model = self.first_stage
        where = {"model": model, "dtype": dtype, "seed": task.seed, "size": task.size, "data": sha256}
        return {"set": data.name, "mode": task.mode, **where}

    def run(self, folder: Path, task: Task) -> dict[str, Any]:
        """Make one ranking without context, or under a corpus head, and measure it."""
        data, _ = self.data(folder)
        start = time.perf_counter()
        extra: dict[str, Any] = {}
        if task.mode == "bm25":
            ranking = rank_bm25(WordSearch(data.documents), data.queries)
        elif task.mode not in WITHOUT_CONTEXT:
            context = self._kept_context(folder, task)
            parts = "both" if task.mode in HYBRID_MODES else "one"
            ranking = rank_with_head(self.encoder, self.plain(folder), context, parts)
            extra = self._of_context(context, self._source(folder, task))
        else:
            ranking = self._rank_plain(folder, task.mode)
            extra = {"first_stage": self.first_stage, "max_length": self.encoder.config.max_length}
        return self._result(folder, task, ranking, extra, time.perf_counter() - start)

    def run_in_context(self, folder: Path, work: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """Make the rankings of one set under several contexts, and measure each; they share the time."""
        if not work:
            return
        data, _ = self.data(folder)
        start = time.perf_counter()
        contexts = [self._context(folder, task) for task in work]
        documents = self.encoder.encode_under(data.documents, "document", contexts, show_progress=True)
        queries = self.encoder.encode_under(data.queries, "query", contexts)
        seconds = (time.perf_counter() - start) / len(work)
        for task, context, q, d in zip(work, contexts, queries, documents, strict=True):
            extra = self._of_context(context, self._source(folder, task))
            if task.mode == "corpus":
                extra["distance"] = distance_from_prior(self.encoder, context)
            yield self._result(folder, task, rank(q, d), extra, seconds)

    def _of_context(self, context: Context, source: Path | None) -> dict[str, Any]:
        return {
            "name": self.encoder.config.name,
            "first_stage": self.first_stage,
            "max_length": self.encoder.config.max_length,
            "context_of": None if source is None else source.name,
            "context_documents": context.size,
        }

    def _context(self, folder: Path, task: Task) -> Context:
        source = self._source(folder, task)
        if source is None:
            return self.encoder.null_context()
        documents = self.data(source)[0].documents
        return self.encoder.fork().fit_context(documents, seed=task.seed or 0, context_size=task.size)

    def _kept_context(self, folder: Path, task: Task) -> Context:
        source = self._source(folder, task)
        if source is None:
            return self.encoder.null_context()
        return fit_on_kept(self.encoder, self.plain(source), seed=task.seed or 0, size=task.size)

    def _source(self, folder: Path, task: Task) -> Path | None:
        """Return the set that a context is of; None for the null context."""
        if task.mode.endswith("null"):
            return None
        return self.foreign(folder) if task.mode.endswith("foreign") else folder

    def _result(
        self, folder: Path, task: Task, ranking: Ranking, extra: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        data, _ = self.data(folder)
        quality = measure(data, ranking)
        return {
            **self.key(folder, task),
            "documents": len(data.documents),
            "queries": len(data.queries),
            **{name: round(value, 6) for name, value in quality.means().items()},
            **extra,
            "seconds": round(seconds, 1),
            "ndcg_per_query": [round(value, 4) for value in quality.ndcg_at_10.tolist()],
        }

    def _rank_plain(self, folder: Path, mode: str) -> Ranking:
        plain = self.plain(folder)
        if mode in MIXTURES:
            return rank_mixture(mode, self._words(folder), plain.query_vectors, plain.document_vectors)
        return rank_plain(mode, plain.query_vectors, plain.document_vectors)

    def plain(self, folder: Path) -> PlainTexts:
        """Return a set with its plain vectors, made once and kept."""
        data, sha256 = self.data(folder)
        documents, queries = (
            self._cached(f"{data.name}-{sha256[:12]}-{name}", texts, role)
            for name, texts, role in (("documents", data.documents, "document"), ("queries", data.queries, "query"))
        )
        return PlainTexts(data.documents, data.queries, documents, queries)

    def _words(self, folder: Path) -> list[NDArray[np.float32]]:
        """Return BM25's scores of a set, kept for its other mixtures."""
        if self._scores is None or self._scores[0] != folder:
            data, _ = self.data(folder)
            self._scores = folder, list(score_bm25(data.documents, data.queries))
        return self._scores[1]

    def _cached(self, name: str, texts: Sequence[str], role: str) -> NDArray[np.float32]:
        file = self.cache / f"{name}.npy"
        if not file.exists():
            vectors = self.encoder.encode_first_stage(texts, role=role, show_progress=True)
            self.cache.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{os.getpid()}-{file.name}")
            np.save(temporary, vectors)
            temporary.replace(file)
        vectors = np.load(file)
        if len(vectors) != len(texts):
            raise ValueError(f"{file} holds {len(vectors)} vectors for {len(texts)} texts; delete it")
        return vectors


def hash_first_stage(encoder: ContextualEncoder) -> str:
    """Return the sha256 of all that decides the first stage's vectors: settings, tokenizer, weights as loaded."""
    config = encoder.config
    settings = [dict(config.first_stage), config.normalize_first_stage, config.max_length, config.prompts["document"]]
    if config.prompts["query"] != config.prompts["document"]:
        settings.append(config.prompts["query"])
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(encoder.tokenizer.to_str().encode())
    for name, tensor in sorted(encoder.open_model().first_stage.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def distance_from_prior(encoder: ContextualEncoder, context: Context) -> float | None:
    """Return how far a corpus is from the training domains, 0 to 1; None for a model without term statistics.

    That is the Jensen-Shannon divergence, in bits, between the document frequencies of the context's tokens and those
    of the checkpoint's prior, each divided by its sum.
    """
    second = encoder.open_model().second_stage
    if not isinstance(second, LateSecondStage) or second.term_head is None:
        return None
    prior = second.term_head.log_prior.double().exp().numpy(force=True)
    own = np.zeros_like(prior)
    own[context.frequencies[:, 0]] = context.frequencies[:, 1]
    p, q = own / own.sum(), prior / prior.sum()
    middle = (p + q) / 2

    def bits(one: NDArray[np.float64]) -> float:
        there = one > 0
        return float((one[there] * np.log2(one[there] / middle[there])).sum())

    return round((bits(p) + bits(q)) / 2, 4)


def tasks(modes: Sequence[str], context_seeds: Sequence[int], context_sizes: Sequence[int]) -> list[Task]:
    """Return the rankings a set needs; further context seeds and sizes apply to corpus context only."""
    found = []
    for mode in MODES:
        drawn = mode in ("corpus", "hybrid")
        seeds: Sequence[int | None] = context_seeds if drawn else [0] if mode.endswith("foreign") else [None]
        sizes: Sequence[int | None] = [None, *context_sizes] if mode == "corpus" else [None]
        if mode in modes:
            found += [Task(mode, seed, size) for size in sizes for seed in seeds]
    return found


def compute(options: argparse.Namespace) -> None:
    """Fill the results file with what it does not have yet."""
    folders = find_retrieval_sets(options.eval_folder)
    unknown = set(options.sets or ()) - {folder.name for folder in folders}
    if unknown:
        raise ValueError(f"--sets names unknown sets {sorted(unknown)}; there are {[f.name for f in folders]}")
    encoder = ContextualEncoder.from_pretrained(
        options.checkpoint,
        dtype=options.dtype,
        device=options.device,
        max_length=options.max_length,
        context_for=options.context_for,
    )
    bench = Bench(encoder, folders, cache=options.cache, dtype=options.dtype)
    results = Results(options.output)
    encodes = encoder.config.corpus_head is None
    if encodes:
        options.modes = [mode for mode in options.modes if mode not in HYBRID_MODES]
    wanted = [folder for folder in folders if not options.sets or folder.name in options.sets]
    for folder in tqdm(wanted, desc="Quality", unit="set"):
        work = tasks(options.modes, options.context_seeds, options.context_sizes)
        missing = [task for task in work if not results.has(bench.key(folder, task))]
        together = [task for task in missing if encodes and task.mode in CONTEXT_MODES]
        for task in missing:
            if task not in together:
                results.add(bench.run(folder, task))
        for result in bench.run_in_context(folder, together):
            results.add(result)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", help="folder or Hub id")
    parser.add_argument("eval_folder", nargs="?", type=Path, help="a folder of retrieval sets")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/quality.json"))
    parser.add_argument("--max-length", type=int, help="longest text of an encoder, in tokens; default: its own")
    parser.add_argument("--context-for", choices=(QUERIES,), help="measure that; default: both")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default=None, help="cpu, cuda, mps; default: the fastest there is")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--sets", nargs="+", metavar="SET", help="names of sets; default: all")
    parser.add_argument("--context-seeds", nargs="+", type=int, default=[0], help="samples of the corpus context")
    parser.add_argument("--context-sizes", nargs="+", type=int, default=[], help="corpus context of these sizes too")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of plain vectors")
    parser.add_argument("--table", type=Path, metavar="JSON", help="write the results' table beside them and stop")
    options = parser.parse_args(arguments)
    if options.table is None and options.eval_folder is None:
        parser.error("give CHECKPOINT and EVAL_FOLDER, or --table JSON")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute results, or write their table."""
    options = parse(arguments)
    warnings.simplefilter("ignore", TruncationWarning)  # the table's header says the length
    if options.table is None:
        compute(options)
    print(write_table(options.table or options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
