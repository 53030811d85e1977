"""Tables and figures of what the ablation found; no number is typed in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from cde_retriever.files.replacing import write_atomically

TITLES = {
    "neither": "no | no | ",
    "batching": "yes | no | ",
    "batching_strict": "yes, margin -0.1 | no | ",
    "architecture": "no | yes | cached",
    "both": "yes | yes | cached",
    "both_joint": "yes | yes | joint",
    "both_late": "yes | yes | late",
    "both_cached_time": "yes | yes | cached, as long as joint",
    "both_late_time": "yes | yes | late, as long as joint",
}
CONTEXTS = ("corpus", "null", "foreign")


def mean_of_sets(result: dict[str, Any], context: str, sets: Sequence[str]) -> float | None:
    """Return the mean nDCG@10 x 100 of a run over the sets, None if it was not measured under this context."""
    found = [result["sets"][name].get(context) for name in sets]
    return None if None in found else 100 * float(np.mean(found))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval (Student's t over seeds); nan for one value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def show(values: Sequence[float | None], digits: int = 2) -> str:
    """Return mean ± half width of what was measured."""
    there = [value for value in values if value is not None]
    if not there:
        return ""
    middle, half = interval(there)
    return f"{middle:.{digits}f}" + (f" ± {half:.{digits}f}" if len(there) > 1 else "")


def markdown(results: list[dict[str, Any]], plain: dict[str, float]) -> str:
    """Return the tables."""
    sets = sorted(results[0]["sets"])
    cells = {name: [r for r in results if r["cell"] == name] for name in dict.fromkeys(r["cell"] for r in results)}
    lines = [
        f"nDCG@10 x 100, mean over {len(sets)} sets ({', '.join(sets)}), full-corpus retrieval.",
        "± is half the 95 % interval over training seeds (Student's t). The start, untrained and without context: "
        + (f"{100 * np.mean([plain[name] for name in sets]):.2f}." if plain else "not measured."),
        "",
        "| contextual batching | contextual architecture | layout | seeds | own context | null context | foreign one "
        "| unseen pairs of the training domains | batch difficulty | training, CPU s |",
        "|:-:|:-:|:-:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, runs in cells.items():
        scores = [show([mean_of_sets(run, context, sets) for run in runs]) for context in CONTEXTS]
        hardness = np.mean([run["batch_difficulty"] for run in runs])
        cost = np.median([run["training_cpu_seconds"] for run in runs])
        title = TITLES.get(name, f"{name} | |")
        unseen = show([100 * float(np.mean(list(run["unseen"].values()))) if "unseen" in run else None for run in runs])
        lines.append(f"| {title} | {len(runs)} | {' | '.join(scores)} | {unseen} | {hardness:.3f} | {cost:.0f} |")
    lines += ["", "Effects, paired by seed:", ""]
    lines += [f"- {line}" for line in effects(cells, sets)]
    lines += ["", "Per set, own context (null context for the cells without architecture), mean over seeds:", ""]
    lines.append("| set | start | " + " | ".join(cells) + " |")
    lines.append("|---|" + "--:|" * (len(cells) + 1))
    for data in sets:
        row = [np.mean([100 * own(run, data) for run in runs]) for runs in cells.values()]
        start = f"{100 * plain[data]:.1f}" if plain else ""
        lines.append(f"| {data} | {start} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    return "\n".join(lines) + "\n"


def own(run: dict[str, Any], data: str) -> float:
    """Return a run's nDCG@10 on a set under the context it was made for."""
    found = run["sets"][data]
    return float(found["corpus"] if "corpus" in found else found["null"])


def effects(cells: dict[str, list[dict[str, Any]]], sets: Sequence[str]) -> list[str]:
    """Return the differences between cells, a line each."""

    def score(run: dict[str, Any], context: str | None) -> float:
        values = [own(run, name) if context is None else run["sets"][name][context] for name in sets]
        return 100 * float(np.mean(values))

    def difference(one: str, other: str, first: str | None = None, second: str | None = None) -> str | None:
        mine = {run["seed"]: run for run in cells.get(one, [])}
        theirs = {run["seed"]: run for run in cells.get(other, [])}
        seeds = sorted(mine.keys() & theirs.keys())
        sides = ((mine, first), (theirs, second))
        if not seeds or any(c and c not in runs[s]["sets"][sets[0]] for runs, c in sides for s in seeds):
            return None
        return show([score(mine[seed], first) - score(theirs[seed], second) for seed in seeds])

    wanted = [
        ("batching alone (batching - neither)", ("batching", "neither")),
        ("architecture alone (architecture - neither)", ("architecture", "neither")),
        ("architecture on top of batching (both - batching)", ("both", "batching")),
        ("batching on top of architecture (both - architecture)", ("both", "architecture")),
        ("own context over null context, both", ("both", "both", "corpus", "null")),
        ("own context over a foreign one, both", ("both", "both", "corpus", "foreign")),
        ("batching, margin -0.1 instead of 0", ("batching_strict", "batching")),
        ("joint - cached, equal steps", ("both_joint", "both")),
        ("joint - cached, equal training time", ("both_joint", "both_cached_time")),
        ("late - cached, equal training time", ("both_late_time", "both_cached_time")),
        ("late - cached, equal steps", ("both_late", "both")),
        ("own context over null context, late", ("both_late", "both_late", "corpus", "null")),
        ("own context over a foreign one, late", ("both_late", "both_late", "corpus", "foreign")),
    ]
    return [f"{name}: {text}" for name, pair in wanted if (text := difference(*pair)) is not None]


def write_tables(
    results: list[dict[str, Any]], path: Path, plain: dict[str, float], sweep: list[dict[str, Any]]
) -> None:
    """Write PATH.json, PATH.md and the two figures beside them."""
    content = {"start": plain, "cluster_sizes": sweep, "runs": results}
    write_atomically(path.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    text = "# Ablation\n\nWritten by `python -m benchmarks.ablation benchmarks/ablation/ablation.toml --table`.\n\n"
    text += (
        "Longer, and from weights that were never trained for retrieval: "
        "[by pairs seen](ablation-curves.md). Verdict: [log](../log.md).\n\n"
    )
    text += markdown(results, plain)
    text += f"\n![Batch difficulty against nDCG@10]({path.name}-difficulty.svg)\n"
    text += f"\n![Cluster size against batch difficulty]({path.name}-clusters.svg)\n"
    write_atomically(path.with_suffix(".md"), text.encode())
    draw_difficulty(results, path.with_name(path.name + "-difficulty.svg"))
    draw_clusters(sweep, path.with_name(path.name + "-clusters.svg"))


def draw_difficulty(results: list[dict[str, Any]], file: Path) -> None:
    """Draw each run: how hard its batches were, and what it reached."""
    figure, axes = new_figure("batch difficulty (mean cosine to the other pairs of the batch)", "nDCG@10 x 100")
    for name in dict.fromkeys(run["cell"] for run in results):
        runs = [run for run in results if run["cell"] == name]
        scores = [100 * np.mean([own(run, data) for data in run["sets"]]) for run in runs]
        axes.scatter([run["batch_difficulty"] for run in runs], scores, label=name.replace("_", ", "))
    axes.legend(fontsize=8)
    write_figure(figure, file)


def draw_clusters(sweep: list[dict[str, Any]], file: Path) -> None:
    """Draw how hard batches are by the size of clusters."""
    figure, axes = new_figure("pairs a cluster", "batch difficulty")
    sizes = [row for row in sweep if row["cluster_size"]]
    axes.plot([row["cluster_size"] for row in sizes], [row["batch_difficulty"] for row in sizes], marker="o")
    for row in sweep:
        if not row["cluster_size"]:
            axes.axhline(row["batch_difficulty"], linestyle="--", label="random batches of one domain")
            axes.legend(fontsize=8)
    axes.set_xscale("log", base=2)
    write_figure(figure, file)


def new_figure(x: str, y: str) -> tuple[Any, Any]:
    """Return an empty figure and its axes, named so."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ablation"  # the same file from the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def write_figure(figure: Any, file: Path) -> None:
    """Write a figure as SVG, the same file from the same numbers."""
    figure.savefig(file, metadata={"Date": None})
