"""Rank every corpus under the context of every other, and draw it: which corpus's context helps which corpus.

    python -m benchmarks.context_map CHECKPOINT EVAL_FOLDER --page docs/figures/context-map

The paper's heat map of contexts and domains, for a checkpoint with a corpus head, by one vector and in two parts.
Contexts are those of `benchmarks.quality` (seed 0), made of the plain vectors that it keeps; no text is
encoded twice. Every finished corpus is written at once and not computed again.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from benchmarks.ablation.table import new_figure, write_figure
from benchmarks.head_ranking import fit_on_kept, rank_with_head
from benchmarks.quality import Bench
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import find_retrieval_sets
from cde_train.evaluation.ranking import measure

PARTS = {"one": "one vector", "both": "two parts"}
NULL = "no context"
NEAR = 1.0
"""Points below a column's best within which a cell is marked, as in the paper."""

Found = dict[str, dict[str, dict[str, float]]]
"""nDCG@10 x 100 by corpus, part and context."""


def rank_corpus(bench: Bench, folder: Path, contexts: Mapping[str, Context]) -> dict[str, dict[str, float]]:
    """Return nDCG@10 x 100 of a corpus by part and context."""
    data, _ = bench.data(folder)
    texts = bench.plain(folder)
    return {
        parts: {
            name: 100 * measure(data, rank_with_head(bench.encoder, texts, context, parts)).means()["ndcg_at_10"]
            for name, context in contexts.items()
        }
        for parts in PARTS
    }


def table(found: Found, parts: str) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Return the contexts, the corpora, and nDCG@10 x 100 of every corpus under every context, (contexts, corpora)."""
    corpora = sorted(found)
    contexts = [NULL, *corpora]
    return contexts, corpora, np.array([[found[corpus][parts][context] for corpus in corpora] for context in contexts])


def markdown(found: Found, name: str, page: str) -> str:
    """Return the page's text."""
    lines = [
        f"# Which corpus's context helps which corpus: {name}",
        "",
        f"Written by `python -m benchmarks.context_map {name} ../shared/eval --page docs/figures/{page}`.",
        "",
        "nDCG@10 x 100 of each corpus (columns), full-corpus retrieval, under the context of each (rows), seed 0. "
        f"Bold: within {NEAR:g} of the column's best.",
    ]
    for parts, label in PARTS.items():
        contexts, corpora, scores = table(found, parts)
        near = scores >= scores.max(axis=0) - NEAR
        own = near[1:].diagonal()
        others = near[1:].sum() - own.sum()
        lines += [
            "",
            f"## {label.capitalize()}",
            "",
            f"| context | {' | '.join(corpora)} |",
            "|---|" + "--:|" * len(corpora),
        ]
        for context, row, marks in zip(contexts, scores, near, strict=True):
            cells = (f"**{score:.1f}**" if mark else f"{score:.1f}" for score, mark in zip(row, marks, strict=True))
            lines.append(f"| {context} | {' | '.join(cells)} |")
        lines += [
            "",
            f"Within {NEAR:g} of the best: own context on {own.sum()} of {len(corpora)} corpora, no context on "
            f"{near[0].sum()}, another's in {others} of {len(corpora) * (len(corpora) - 1)} cells.",
            "",
            f"![{label}: gain over no context]({page}-{parts}.svg)",
        ]
    return "\n".join([*lines, ""])


def draw(found: Found, parts: str, file: Path) -> None:
    """Draw what each context adds to or takes from each corpus, beside no context."""
    contexts, corpora, scores = table(found, parts)
    gains = scores[1:] - scores[0]
    figure, axes = new_figure("corpus", "context")
    axes.grid(visible=False)
    most = float(np.abs(gains).max())
    axes.imshow(gains, cmap="RdBu", vmin=-most, vmax=most)
    axes.set_xticks(range(len(corpora)), corpora, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(corpora)), contexts[1:], fontsize=8)
    for (row, column), gain in np.ndenumerate(gains):
        dark = abs(gain) > 0.6 * most
        axes.text(column, row, f"{gain:+.1f}", ha="center", va="center", fontsize=6, color="white" if dark else "black")
    figure.set_size_inches(7, 6)
    write_figure(figure, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write PAGE.json, PAGE.md and the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context_map", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or name of a checkpoint with a corpus head")
    parser.add_argument("eval_folder", type=Path, help="a folder of retrieval sets")
    parser.add_argument("--page", type=Path, required=True, help="where to write, without an ending")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of plain vectors")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args(arguments)
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, dtype=options.dtype)
    folders = find_retrieval_sets(options.eval_folder)
    bench = Bench(encoder, folders, cache=options.cache, dtype=options.dtype)
    file = options.page.with_suffix(".json")
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found: Found = known.get("found", {}) if known.get("model") == encoder.identity.sha256 else {}
    contexts = {NULL: encoder.null_context()}
    contexts |= {folder.name: fit_on_kept(encoder, bench.plain(folder)) for folder in folders}
    for folder in tqdm([folder for folder in folders if folder.name not in found], desc="Ranking", unit="corpus"):
        found[folder.name] = rank_corpus(bench, folder, contexts)
        content = {"model": encoder.identity.sha256, "dtype": options.dtype, "found": found}
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(options.page.with_suffix(".md"), markdown(found, encoder.config.name, options.page.name).encode())
    for parts in PARTS:
        draw(found, parts, options.page.with_name(f"{options.page.name}-{parts}.svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
