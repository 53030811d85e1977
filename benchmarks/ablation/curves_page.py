"""Show what the rungs found: nDCG@10 against pairs seen; no number is typed in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.table import mean_of_sets, new_figure, show, write_figure
from cde_retriever.files.replacing import write_atomically

CELLS = {
    "mixed": "neither, random batches over everything",
    "domain": "neither, random batches within a domain",
    "batching": "contextual batching",
    "architecture": "contextual architecture",
    "both": "both",
    "both_joint": "both, layout joint",
}
EFFECTS = (
    ("batching - random over everything", ("batching", "null"), ("mixed", "null")),
    ("batching - random within a domain", ("batching", "null"), ("domain", "null")),
    ("architecture - random over everything", ("architecture", "corpus"), ("mixed", "null")),
    ("both - batching", ("both", "corpus"), ("batching", "null")),
    ("both - architecture", ("both", "corpus"), ("architecture", "corpus")),
    ("both - random over everything", ("both", "corpus"), ("mixed", "null")),
    ("both, own context - null", ("both", "corpus"), ("both", "null")),
    ("both, own context - foreign", ("both", "corpus"), ("both", "foreign")),
    ("both, joint - cached", ("both_joint", "corpus"), ("both", "corpus")),
)
"""Title, and cell and context of what is compared."""
Side = tuple[str, str]


def write_page(results: list[dict[str, Any]], page: Path) -> None:
    """Write PAGE.json, PAGE.md and PAGE.svg."""
    write_atomically(page.with_suffix(".json"), (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(page.with_suffix(".md"), markdown(results, page.name).encode())
    draw(results, page.with_suffix(".svg"))


def markdown(results: list[dict[str, Any]], name: str) -> str:
    """Return the page's text."""
    sets, sizes = sorted(results[0]["sets"]), sorted({r["pairs"] for r in results})
    cells = [cell for cell in CELLS if any(r["cell"] == cell for r in results)]
    head = f"| | {' | '.join(f'{size:,}' for size in sizes)} |"
    lines = [
        "# Ablation, by pairs seen",
        "",
        "Written by `python -m benchmarks.ablation.curves benchmarks/ablation/curves.toml --page`, which says what is "
        "trained.",
        "",
        f"nDCG@10 x 100, mean over {', '.join(sets)}, full-corpus retrieval; cells with the contextual architecture "
        "under own context. ± is half the 95 % interval over seeds (Student's t); a figure without it is of one seed.",
        "",
        head,
        "|---|" + "--:|" * len(sizes),
    ]
    for cell in cells:
        lines.append(f"| {CELLS[cell]} | " + " | ".join(show(scores(results, cell, size)) for size in sizes) + " |")
    lines += ["", "Effects, paired by seed:", "", head, "|---|" + "--:|" * len(sizes)]
    for title, one, other in EFFECTS:
        lines.append(f"| {title} | " + " | ".join(show(differences(results, one, other, s)) for s in sizes) + " |")
    lines += ["", "| | batch difficulty | pairs a CPU second |", "|---|--:|--:|"]
    for cell in cells:
        runs = [r for r in results if r["cell"] == cell]
        speed = np.median([pairs_trained(r, results) / r["training_cpu_seconds"] for r in runs])
        lines.append(f"| {CELLS[cell]} | {np.mean([r['batch_difficulty'] for r in runs]):.3f} | {speed:.0f} |")
    lines += ["", f"![nDCG@10 by pairs seen]({name}.svg)", ""]
    lines += [
        "Which corpus's context helps which corpus, of a model that reads its context: [map](context-map.md).",
        "",
    ]
    return "\n".join(lines)


def pairs_trained(result: dict[str, Any], results: list[dict[str, Any]]) -> int:
    """Return how many pairs a rung itself saw: half of all, or all in the first."""
    first = min(r["pairs"] for r in results)
    return int(result["pairs"]) if result["pairs"] == first else int(result["pairs"]) // 2


def scores(results: list[dict[str, Any]], cell: str, pairs: int) -> list[float | None]:
    """Return the means over the sets of a cell's seeds: own context where the cell has one."""
    found = [r for r in results if r["cell"] == cell and r["pairs"] == pairs]
    return [
        mean_of_sets(r, "corpus" if "corpus" in next(iter(r["sets"].values())) else "null", sorted(r["sets"]))
        for r in found
    ]


def differences(results: list[dict[str, Any]], one: Side, other: Side, pairs: int) -> list[float | None]:
    """Return one side minus the other of each seed that has both."""

    def by_seed(side: Side) -> dict[int, float]:
        chosen = [r for r in results if r["cell"] == side[0] and r["pairs"] == pairs]
        means = {r["seed"]: mean_of_sets(r, side[1], sorted(r["sets"])) for r in chosen}
        return {seed: mean for seed, mean in means.items() if mean is not None}

    mine, theirs = by_seed(one), by_seed(other)
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def draw(results: list[dict[str, Any]], file: Path) -> None:
    """Draw a line for each cell: means over seeds, pairs seen on a logarithmic scale."""
    figure, axes = new_figure("pairs seen", "nDCG@10 x 100")
    for cell in CELLS:
        sizes = sorted({r["pairs"] for r in results if r["cell"] == cell})
        if sizes:
            axes.plot(sizes, [_mean(scores(results, cell, size)) for size in sizes], marker="o", label=CELLS[cell])
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=8)
    write_figure(figure, file)


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))
