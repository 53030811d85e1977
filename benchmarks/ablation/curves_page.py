"""Show what the rungs found: nDCG@10 against pairs seen; no number is typed in."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.table import mean_of_sets, new_figure, show, write_figure
from cde_retriever.files.replacing import write_atomically


def write_page(settings: Path, config: dict[str, Any], results: list[dict[str, Any]], page: Path) -> None:
    """Write PAGE.json, PAGE.md and PAGE.svg; cells and effects are named as the file of settings says."""
    titles = {name: cell["title"] for name, cell in config["cell"].items() if any(r["cell"] == name for r in results)}
    write_atomically(page.with_suffix(".json"), (json.dumps(results, indent=1) + "\n").encode())
    text = markdown(results, config, titles, settings.as_posix(), page.name)
    write_atomically(page.with_suffix(".md"), text.encode())
    draw(results, titles, page.with_suffix(".svg"))


def markdown(
    results: list[dict[str, Any]], config: dict[str, Any], titles: dict[str, str], settings: str, name: str
) -> str:
    """Return the page's text."""
    sets, sizes = sorted(results[0]["sets"]), sorted({r["pairs"] for r in results})
    head = f"| | {' | '.join(f'{size:,}' for size in sizes)} |"
    lines = [
        f"# {config['title']}",
        "",
        f"Written by `python -m benchmarks.ablation.curves {settings} --page`; the file says what is trained.",
        "",
        f"nDCG@10 x 100, mean over {', '.join(sets)}, full-corpus retrieval, under own context where a model "
        "reads one. ± is half the 95 % interval over seeds (Student's t); a figure without it is of one seed.",
        "",
        head,
        "|---|" + "--:|" * len(sizes),
    ]
    for cell, title in titles.items():
        lines.append(
            f"| {title} | " + " | ".join(show(list(scores(results, cell, size).values())) for size in sizes) + " |"
        )
    lines += ["", "Effects, paired by seed:", "", head, "|---|" + "--:|" * len(sizes)]
    for title, (one, other) in config["effects"].items():
        found = [differences(results, one, other, size) for size in sizes]
        if any(found):
            lines.append(f"| {title} | " + " | ".join(map(show, found)) + " |")
    lines += ["", "| | batch difficulty | pairs a CPU second |", "|---|--:|--:|"]
    for cell, title in titles.items():
        runs = [r for r in results if r["cell"] == cell]
        speed = np.median([pairs_trained(r, results) / r["training_cpu_seconds"] for r in runs])
        lines.append(f"| {title} | {np.mean([r['batch_difficulty'] for r in runs]):.3f} | {speed:.0f} |")
    return "\n".join([*lines, "", f"![nDCG@10 by pairs seen]({name}.svg)", ""])


def pairs_trained(result: dict[str, Any], results: list[dict[str, Any]]) -> int:
    """Return how many pairs a rung itself saw: half of all, or all in the first."""
    first = min(r["pairs"] for r in results)
    return int(result["pairs"]) if result["pairs"] == first else int(result["pairs"]) // 2


def scores(results: list[dict[str, Any]], side: str, pairs: int) -> dict[int, float]:
    """Return the mean over the sets of each seed that has one; of a cell, or of a cell under a context ("both null").

    A cell alone stands for its own context, where it was measured under one.
    """
    cell, _, context = side.partition(" ")
    found = {}
    for result in results:
        if (result["cell"], result["pairs"]) == (cell, pairs):
            measured = next(iter(result["sets"].values()))
            own = "corpus" if "corpus" in measured else "null"
            mean = mean_of_sets(result, context or own, sorted(result["sets"]))
            if mean is not None:
                found[result["seed"]] = mean
    return found


def differences(results: list[dict[str, Any]], one: str, other: str, pairs: int) -> list[float]:
    """Return one side minus the other of each seed that has both."""
    mine, theirs = scores(results, one, pairs), scores(results, other, pairs)
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def draw(results: list[dict[str, Any]], titles: dict[str, str], file: Path) -> None:
    """Draw a line for each cell: means over seeds, pairs seen on a logarithmic scale."""
    figure, axes = new_figure("pairs seen", "nDCG@10 x 100")
    for cell, title in titles.items():
        sizes = sorted({r["pairs"] for r in results if r["cell"] == cell})
        means = [float(np.mean(list(scores(results, cell, size).values()))) for size in sizes]
        axes.plot(sizes, means, marker="o", label=title)
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=8)
    write_figure(figure, file)
