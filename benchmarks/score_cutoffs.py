"""Measure which scores right and wrong documents have, and which cutoff tells questions that a corpus cannot answer.

    python -m benchmarks.score_cutoffs CHECKPOINT SETS [--split claude_docs stackfaq]

Documents of the sets of ``--split`` are split into nodes that the model reads whole, as LlamaIndex's adapter does; the
others are taken as they are, cut where the model cuts them. The context is of them all. Three scores of a question and
a node: the cosine of one vector, as `CDEEmbedding()` gives it; the cosine of the dense parts, ``mode="dense"`` of an
index in two parts; and the score of both parts. Stated are percentiles of the best node of a right document, of the
best of another one, and of the best node there is for `ELSEWHERE`, ten questions about something else, and for the
other sets' questions; and at each cutoff what share of a set's questions still has a right node, and what share of the
others has none any more.

Plain vectors of what is not split are kept in the cache folder of `benchmarks.quality`. Writes
docs/figures/score_cutoffs.json and .md.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from llama_index.core import Document
from numpy.typing import NDArray

from benchmarks.head_ranking import PlainTexts, Vectors, fit_on_kept, kept_head, one_vectors
from benchmarks.kept_bench import kept_parser, open_bench, write_lines, write_measurements
from benchmarks.quality import Bench
from cde_retriever.adapters.llama_index.splitting import splitter_for
from cde_retriever.context.knowledge import Parts
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.hybrid import score

ELSEWHERE = (
    "How long do I boil an egg so that the yolk stays soft?",
    "When does the last train from Vienna to Graz leave?",
    "What are the symptoms of measles in small children?",
    "Which moon of Saturn has lakes of methane?",
    "How do I prune an apple tree in winter?",
    "Who painted the ceiling of the Sistine Chapel?",
    "How many players does a handball team have on the field?",
    "Why do cats purr when they are stroked?",
    "What is the notice period for a rented flat?",
    "How thick must the ice of a lake be to skate on it?",
)
FORMS = {"one": "one vector", "dense": "dense part", "both": "two parts"}
CUTOFFS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
PERCENTILES = (5, 50, 95)
LABELS = {"right": "right", "wrong": "wrong", "elsewhere": "ten questions elsewhere", "others": "other sets' questions"}


def node_texts(encoder: ContextualEncoder, documents: Sequence[str]) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Return the nodes of documents, and which document each is of."""
    given = [Document(text=text, id_=str(number)) for number, text in enumerate(documents)]
    nodes = splitter_for(encoder).get_nodes_from_documents(given)
    return [node.get_content() for node in nodes], np.array([int(node.ref_doc_id or 0) for node in nodes])


def scores_of(encoder: ContextualEncoder, texts: PlainTexts) -> dict[str, Vectors]:
    """Return the scores of all queries and documents, (q, n), by form, under a context of the documents."""
    context = fit_on_kept(encoder, texts)
    documents, queries = one_vectors(encoder, texts, context)
    head = kept_head(encoder, texts, context)
    made = cast(Parts, head.documents(texts.document_vectors, texts.documents, "both"))
    asked = cast(Parts, head.queries(texts.query_vectors, texts.queries, "both"))
    return {"one": queries @ documents.T, "dense": asked.dense @ made.dense.T, "both": score(asked, made)}


def rows(bench: Bench, folder: Path, split: bool) -> Iterator[dict[str, Any]]:
    """Yield the measurements of one set."""
    encoder, (data, _) = bench.encoder, bench.data(folder)
    others = [other for other in bench.folders if other != folder]
    nodes, of = node_texts(encoder, data.documents) if split else (data.documents, np.arange(len(data.documents)))
    made = encoder.encode_first_stage(nodes, role="document") if split else bench.plain(folder).document_vectors
    queries = [*data.queries, *ELSEWHERE, *(text for other in others for text in bench.data(other)[0].queries)]
    vectors = [
        bench.plain(folder).query_vectors,
        encoder.encode_first_stage(ELSEWHERE, role="query"),
        *(bench.plain(other).query_vectors for other in others),
    ]
    texts = PlainTexts(nodes, queries, made, np.concatenate(vectors))
    ids = np.array(data.document_ids)[of]
    right = np.array([np.isin(ids, list(data.relevant[name])) for name in data.query_ids])
    own, elsewhere = len(data.queries), len(data.queries) + len(ELSEWHERE)
    for form, found in scores_of(encoder, texts).items():
        best = {
            "right": np.where(right, found[:own], -np.inf).max(axis=1),
            "wrong": np.where(right, -np.inf, found[:own]).max(axis=1),
            "elsewhere": found[own:elsewhere].max(axis=1),
            "others": found[elsewhere:].max(axis=1),
        }
        yield {
            "set": data.name,
            "form": form,
            "nodes": len(nodes),
            "questions": {name: len(values) for name, values in best.items()},
            "percentiles": {name: percentiles(values) for name, values in best.items()},
            "reached": {name: reached(values) for name, values in best.items()},
        }


def percentiles(values: NDArray[np.floating]) -> list[float]:
    """Return `PERCENTILES` of values."""
    return [round(float(value), 4) for value in np.percentile(values, PERCENTILES)]


def reached(values: NDArray[np.floating]) -> list[float]:
    """Return what share of values reaches each of `CUTOFFS`."""
    return [round(float(np.mean(values >= cutoff)), 4) for cutoff in CUTOFFS]


def page_lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Scores of right and wrong documents"
    yield ""
    yield "Made by `python -m benchmarks.score_cutoffs`; how, and the ten questions: its first lines."
    for form, label in FORMS.items():
        found = [row for row in results if row["form"] == form]
        yield from ["", f"## {label.capitalize()}", ""]
        yield f"Best nodes, {', '.join(map(str, PERCENTILES))} %:"
        yield from ["", "| | nodes | " + " | ".join(LABELS.values()) + " |", "|---|--:|" + "--:|" * len(LABELS)]
        for row in found:
            cells = (", ".join(f"{value:.2f}" for value in row["percentiles"][name]) for name in LABELS)
            yield f"| {row['set']} | {row['nodes']:,} | {' | '.join(cells)} |"
        yield from ["", "Questions that keep a right node at a cutoff; of the ten, and of other sets', without any, %:"]
        yield from ["", "| | " + " | ".join(map(str, CUTOFFS)) + " |", "|---|" + "--:|" * len(CUTOFFS)]
        for row in found:
            shares = zip(*(row["reached"][name] for name in ("right", "elsewhere", "others")), strict=True)
            cells = (
                f"{100 * right:.0f}; {100 - 100 * ten:.0f}, {100 - 100 * other:.0f}" for right, ten, other in shares
            )
            yield f"| {row['set']} | {' | '.join(cells)} |"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = kept_parser("score_cutoffs", __doc__)
    parser.add_argument(
        "--split",
        nargs="*",
        metavar="SET",
        default=["claude_docs", "stackfaq"],
        help="names of the sets whose documents are split (default: claude_docs stackfaq)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = parse(arguments)
    bench, folders = open_bench(options)
    results = [row for folder in folders for row in rows(bench, folder, folder.name in options.split)]
    write_measurements(options.output, bench.encoder, results=results)
    print(write_lines(options.output, page_lines(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
