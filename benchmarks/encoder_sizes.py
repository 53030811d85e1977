"""What a corpus head is worth on encoders of all sizes: parameters, dimension, time of a query, nDCG@10 plain and with.

    python -m benchmarks.encoder_sizes ../shared/eval MODEL ... --vectors KEPT --output docs/figures/encoder_sizes.md

A model is a folder of sentence-transformers. Its plain vectors of each set are kept in KEPT/MODEL/SET.npz (``d`` of
documents, ``q`` of queries; computed in bfloat16 at no more than `LENGTH` tokens if they are not there) and read where
they are; `--kept` takes no others. One context a set, seed 0, the same numbers of the head for all. The time of a query
is that of one with everything the head does, in times of the encoder's own vector, medians of `ROUNDS` in turns.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np

from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_plain, rank_with_head
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.replacing import replacing, write_atomically
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.ranking import Ranking, measure

LENGTH, ROUNDS = 512, 40
COLUMNS = ("encoder", "parameters", "numbers", "query", "sets", "plain", "null", "one vector", "two parts", "least")


def kept_texts(
    encoder: ContextualEncoder, documents: Sequence[str], queries: Sequence[str], file: Path | None
) -> PlainTexts:
    """Return texts with their plain vectors, read from a file, or made and kept there; None keeps them nowhere."""
    if file is not None and file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            return PlainTexts(list(documents), list(queries), stored["d"], stored["q"])
    plain = encoder.without_context()
    made = plain.encode_documents(documents, parts="dense", show_progress=True)
    asked = plain.encode_queries(queries, parts="dense")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            np.savez(stream, d=made, q=asked)
    return PlainTexts(list(documents), list(queries), made, asked)


def figures(encoder: ContextualEncoder, data: RetrievalSet, texts: PlainTexts) -> list[float]:
    """Return nDCG@10 in hundredths: plain, two parts under no context, one vector and two parts under its own."""
    own, null = fit_on_kept(encoder, texts), encoder.null_context()

    def quality(ranking: Ranking) -> float:
        return 100 * measure(data, ranking).means()["ndcg_at_10"]

    ways = ((null, "both"), (own, "one"), (own, "both"))
    return [quality(rank_plain(texts)), *(quality(rank_with_head(encoder, texts, used, parts)) for used, parts in ways)]


def query_times(encoder: ContextualEncoder, texts: PlainTexts) -> float:
    """Return how long a query takes under the corpus's context, in times of its plain vector."""
    encoder.set_context(fit_on_kept(encoder, texts))
    taken: dict[str, list[float]] = {"dense": [], "one": []}
    for query in (texts.queries * ROUNDS)[:ROUNDS]:
        for parts, times in taken.items():
            times.append(_seconds(lambda query=query, parts=parts: encoder.encode_queries([query], parts=parts)))
    return median(taken["one"]) / median(taken["dense"])


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def open_cut(folder: Path) -> ContextualEncoder:
    """Open an encoder that reads at most `LENGTH` tokens of a text."""
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", dtype="bfloat16")
    if encoder.config.max_length <= LENGTH:
        return encoder
    return ContextualEncoder.from_pretrained(folder, device="cpu", dtype="bfloat16", max_length=LENGTH)


def row_of(name: str, encoder: ContextualEncoder, found: dict[str, list[float]], ratio: float) -> tuple[str, ...]:
    """Return an encoder's row of the table, given the figures of each set and how long a query takes."""
    means = [f"{fmean(column):.1f}" for column in zip(*found.values(), strict=True)]
    least = min(found, key=lambda data: found[data][3] - found[data][0])
    numbers = f"{sum(p.numel() for p in encoder.open_model().second_stage.parameters()) / 1e6:.1f} M"
    difference = f"{found[least][3] - found[least][0]:+.1f} ({least})"
    return (name, numbers, str(encoder.backend.dimension), f"{ratio:.2f} x", str(len(found)), *means, difference)


def measure_all(folders: Sequence[Path], sets: Path, vectors: Path, only_kept: bool) -> list[tuple[str, ...]]:
    """Measure encoders set by set, so that a set's words are read once for all, and return their rows."""
    encoders = {folder.name: open_cut(folder) for folder in folders}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in encoders}
    ratios: dict[str, float] = {}
    for folder in find_retrieval_sets(sets):
        data = read_retrieval_set(folder)
        for name, encoder in encoders.items():
            file = vectors / name / f"{data.name}.npz"
            if only_kept and not file.is_file():
                continue
            texts = kept_texts(encoder, data.documents, data.queries, file)
            found[name][data.name] = figures(encoder, data, texts)
            sys.stderr.write(f"{name} {data.name} {[round(figure, 2) for figure in found[name][data.name]]}\n")
            ratios[name] = ratios.get(name) or query_times(encoder, texts)
    return [row_of(name, encoder, found[name], ratios[name]) for name, encoder in encoders.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each encoder, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_sizes", description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, help="folder of judged sets")
    parser.add_argument("models", nargs="+", type=Path, help="folders of encoders")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of kept vectors")
    parser.add_argument("--kept", action="store_true", help="measure what is kept, and embed nothing (default: embed)")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", TruncationWarning)
    rows = [COLUMNS, ("---", *["--:"] * (len(COLUMNS) - 1))]
    rows += measure_all(options.models, options.sets, options.vectors, options.kept)
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    write_atomically(options.output, table.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
