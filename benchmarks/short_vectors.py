"""What the short one vector is worth on encoders of all sizes: plain, and under no, a foreign and its own context.

    python -m benchmarks.short_vectors ../shared/eval MODEL ... --vectors KEPT --page docs/figures/short_vectors

A model is a folder of sentence-transformers; its plain vectors are read from KEPT/MODEL/SET.npz, as
`benchmarks.encoder_sizes` keeps them, and nothing is encoded. Vectors have as many numbers as the encoder's own, and
`SHORTER` too where those are more (`HeadSettings.short`). One context of 512 documents a set, seed 0; the next set's is
the foreign one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.encoder_sizes import kept_texts
from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_plain, rank_with_head
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.comparison import result_of
from cde_train.evaluation.ranking import Ranking, measure
from cde_train.evaluation.results import Comparison, Difference
from cde_train.evaluation.statistics import bootstrap

SHORTER = 384
MODES = ("plain", "null", "foreign", "corpus")
RIVALS = MODES[:3]


def open_short(folder: Path, size: int | None) -> ContextualEncoder:
    """Open an encoder in its short form; None for as many numbers as its own vectors have."""
    spec = ModelSpec(str(folder), device="cpu")
    size = size or ContextualEncoder.from_spec(spec).backend.dimension
    return ContextualEncoder.from_spec(replace(spec, reading=Reading(vector_size=size)))


def compare_kept(encoder: ContextualEncoder, found: Sequence[tuple[RetrievalSet, PlainTexts]]) -> Comparison:
    """Return all modes on all sets."""
    contexts = [fit_on_kept(encoder, texts) for _, texts in found]
    results = []
    for number, (data, texts) in enumerate(found):
        used = {
            "null": encoder.null_context(),
            "foreign": contexts[number - len(found) + 1],
            "corpus": contexts[number],
        }
        rankings: dict[str, Ranking] = {"plain": rank_plain(texts)}
        rankings |= {mode: rank_with_head(encoder, texts, context, "one") for mode, context in used.items()}
        for mode, ranking in rankings.items():
            results.append(result_of(data, mode, measure(data, ranking)))
    return Comparison(encoder.config.name, encoder.identity.sha256, encoder.config.max_length, tuple(results))


def by_set(comparison: Comparison, rival: str) -> list[float]:
    """Return own context minus a rival on each set."""
    return [
        (comparison.value(name, "corpus") or 0.0) - (comparison.value(name, rival) or 0.0) for name in comparison.sets
    ]


def over_sets(comparison: Comparison, rival: str) -> tuple[float, float]:
    """Return the ends of the 95 % interval of own context minus a rival, as if other sets had been drawn."""
    return bootstrap([np.array(by_set(comparison, rival))])[1:]


def markdown(found: Sequence[tuple[str, int, Comparison]]) -> str:
    """Return the page's text."""
    sets = found[0][2].sets
    lines = [
        "# The short vector of any encoder",
        "",
        "Written by `python -m benchmarks.short_vectors`; the form is that of `cde wrap --vector-size`.",
        "",
        f"100 nDCG@10, mean over {len(sets)} sets, none trained on. 95 % intervals: over queries, over sets.",
        "",
        "| encoder | numbers | plain | null | foreign | own context | "
        + " | ".join(f"own - {r}" for r in RIVALS)
        + " |",
        "|---|" + "--:|" * (len(MODES) + 1) + "---|" * len(RIVALS),
    ]
    for name, size, comparison in found:
        means = comparison.means()
        cells = [f"{100 * means[mode]['ndcg_at_10']:.1f}" for mode in MODES]
        differences = {d.rival: d for d in comparison.differences()}
        cells += [_interval(differences[rival], over_sets(comparison, rival)) for rival in RIVALS]
        lines.append(f"| {name} | {size} | {' | '.join(cells)} |")
    lines += ["", "Own context minus plain, set by set:", "", f"| | {' | '.join(sets)} |", "|---|" + "--:|" * len(sets)]
    for name, size, comparison in found:
        row = " | ".join(f"{100 * value:+.1f}" for value in by_set(comparison, "plain"))
        lines.append(f"| {name}, {size} | {row} |")
    return "\n".join([*lines, ""])


def _interval(difference: Difference, sets: tuple[float, float]) -> str:
    ends = (difference.low, difference.high), sets
    return f"{100 * difference.mean:+.2f} " + ", ".join(
        f"({100 * low:+.1f} to {100 * high:+.1f})" for low, high in ends
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each encoder, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.short_vectors", description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, help="folder of judged sets")
    parser.add_argument("models", nargs="+", type=Path, help="folders of encoders")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of kept vectors")
    parser.add_argument("--page", type=Path, required=True, help="write PAGE.json and PAGE.md")
    options = parser.parse_args(arguments)
    sets = [read_retrieval_set(folder) for folder in find_retrieval_sets(options.sets)]
    found: list[tuple[str, int, Comparison]] = []
    for folder in options.models:
        own = open_short(folder, None)
        both = [own, open_short(folder, SHORTER)] if own.dimension > SHORTER else [own]
        kept = [
            (s, kept_texts(own, s.documents, s.queries, options.vectors / folder.name / f"{s.name}.npz")) for s in sets
        ]
        for encoder in both:
            found.append((folder.name, encoder.dimension, compare_kept(encoder, kept)))
            sys.stderr.write(markdown(found[-1:]))
    stored = [{"encoder": name, "numbers": size} | comparison.to_dict() for name, size, comparison in found]
    for one in stored:
        for result in one["results"]:
            del result["ndcg_per_query"]
    write_atomically(options.page.with_suffix(".json"), (json.dumps(stored, indent=1) + "\n").encode())
    write_atomically(options.page.with_suffix(".md"), markdown(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
