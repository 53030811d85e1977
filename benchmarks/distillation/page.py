"""Show what students found under each context; no number is typed in."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.table import show
from cde_retriever.files.replacing import write_atomically

CONTEXTS = ("own", "null", "foreign")


def write_page(results: list[dict[str, Any]], page: Path) -> None:
    """Write PAGE.json and PAGE.md."""
    write_atomically(page.with_suffix(".json"), (json.dumps(results, indent=1) + "\n").encode())
    write_atomically(page.with_suffix(".md"), markdown(results).encode())


def markdown(results: list[dict[str, Any]]) -> str:
    """Return the page's text."""
    sets = list(results[0]["sets"])
    cells = {name: [r for r in results if r["cell"] == name] for name in dict.fromkeys(r["cell"] for r in results)}

    def mean(result: dict[str, Any], context: str) -> float:
        return float(np.mean([result["sets"][name][context] for name in sets]))

    named = max(results, key=lambda result: len(next(iter(result["sets"].values()))))
    start, plain, teacher, isolated = (mean(named, name) for name in ("start", "plain", "teacher", "isolated"))
    lines = [
        "# Distillation",
        "",
        "Written by `python -m benchmarks.distillation --page`.",
        "",
        f"nDCG@10 x 100, mean over {len(sets)} corpora that were not trained on ({', '.join(sets)}). "
        f"384 numbers. The start, untrained and without context, {start:.2f}; with 256 "
        f"instead of 64 tokens {plain:.2f}. "
        f"Teacher {teacher:.2f}, isolated {isolated:.2f}. "
        "± is half the 95 % interval over seeds (Student's t).",
        "",
        "| trained with | seeds | steps | own context | null | foreign | own - null | own - foreign |",
        "|---|--:|--:|" + "--:|" * 5,
    ]
    for cell, runs in cells.items():
        figures = [show([mean(run, context) for run in runs]) for context in CONTEXTS]
        figures += [show([mean(run, "own") - mean(run, other) for run in runs]) for other in ("null", "foreign")]
        lines.append(f"| {cell} | {len(runs)} | {runs[0]['steps']} | {' | '.join(figures)} |")
    lines += ["", "Listwise KL divergence from the own teacher in lessons of these corpora, nats:", ""]
    lines += ["| trained with | own context | null | foreign |", "|---|--:|--:|--:|"]
    for cell, runs in cells.items():
        figures = [f"{np.mean([run['divergence'][context] for run in runs]):.4f}" for context in CONTEXTS]
        lines.append(f"| {cell} | {' | '.join(figures)} |")
    lines += [
        "",
        "Own context minus a foreign one, mean over seeds:",
        "",
        f"| | {' | '.join(cells)} |",
        "|---|" + "--:|" * len(cells),
    ]
    for name in sets:
        row = [np.mean([r["sets"][name]["own"] - r["sets"][name]["foreign"] for r in runs]) for runs in cells.values()]
        lines.append(f"| {name} | " + " | ".join(f"{value:+.2f}" for value in row) + " |")
    return "\n".join([*lines, ""])
