"""The Markdown table of a results file of `benchmarks.quality`; written by command, never by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.head_ranking import HYBRID_LABELS, HYBRID_MODES
from benchmarks.mixtures import MIXTURE_LABELS
from cde_train.evaluation.results import CONTEXT_MODES, LABELS, MEASURES
from cde_train.evaluation.statistics import RESAMPLES, SEED, bootstrap

RIVALS = ("plain", "bm25", *MIXTURE_LABELS, "best_mixture")
CONTEXTS = {"corpus": ("null", "foreign"), "hybrid": ("hybrid_null", "hybrid_foreign")}
"""Modes under the corpus's own context, and the same under others."""
_LABELS = LABELS | MIXTURE_LABELS | HYBRID_LABELS | {"best_mixture": "best mixture of each set, seen afterwards"}
_FIRST = ("bm25", "plain", "convex_40", *CONTEXT_MODES, *HYBRID_MODES)
MODE_LABELS = {mode: _LABELS[mode] for mode in (*_FIRST, *(mode for mode in _LABELS if mode not in _FIRST))}
"""What a column is called; those that are compared first stand first, for a page shows some ten at once."""

Rows = dict[str, dict[str, list[dict[str, Any]]]]
"""Set to mode to its results, more than one where several context seeds were run."""


def write_table(file: Path) -> Path:
    """Write the table of a results file beside it, as ``.md``, and return its path."""
    content = json.loads(file.read_text())
    lines = [
        f"# Retrieval quality {_subject(content['results'])}",
        "",
        "100 nDCG@10 over the full corpus of each set; written by `python -m benchmarks.quality --table "
        f"{file.name}`, do not edit.",
        "",
    ]
    for model, dtype in checkpoints(content["results"]):
        lines += section(select(content["results"], model, dtype), dtype)
        lines += by_size(content["results"], model, dtype, file)
    lines += footer(content)
    output = file.with_suffix(".md")
    output.write_text("\n".join(lines) + "\n")
    return output


def _subject(results: Sequence[dict[str, Any]]) -> str:
    """Return on how many sets what was measured, for the page's title; the checkpoint if it is one."""
    names = sorted({r["name"] for r in results if "context_of" in r})
    return f"{f'of {names[0]} ' if len(names) == 1 else ''}on {len({r['set'] for r in results})} sets"


def checkpoints(results: Sequence[dict[str, Any]]) -> list[tuple[str | None, str]]:
    """Return the (hash, dtype) of every checkpoint measured; a hash of None where only baselines are there.

    Those of two parts come first, later versions before older ones.
    """
    names = {(r["model"], r["dtype"]): r["name"] for r in results if "context_of" in r}
    two_parts = {(r["model"], r["dtype"]) for r in results if r["mode"] in HYBRID_MODES}
    plain = {r["dtype"] for r in results if r["mode"] == "plain"}
    alone = [(None, dtype) for dtype in sorted(plain - {dtype for _, dtype in names})]
    return [*sorted(names, key=lambda one: (one in two_parts, names[one], one), reverse=True), *alone]


def select(results: Sequence[dict[str, Any]], model: str | None, dtype: str) -> Rows:
    """Return what belongs to one checkpoint: its own results, those of its first stage, and BM25's."""
    own = [r for r in results if (r["model"], r["dtype"], r.get("size")) == (model, dtype, None)]
    first = {r["first_stage"] for r in own} or {r["first_stage"] for r in results if r["mode"] == "plain"}
    rows: Rows = {}
    for r in results:
        plain = "context_of" not in r and r["dtype"] == dtype and r["model"] in first
        if r in own or plain or r["mode"] == "bm25":
            rows.setdefault(r["set"], {}).setdefault(r["mode"], []).append(r)
    for row in rows.values():
        if all(mode in row for mode in MIXTURE_LABELS):
            row["best_mixture"] = max((row[mode] for mode in MIXTURE_LABELS), key=value)
    return rows


def section(rows: Rows, dtype: str) -> list[str]:
    """Return the part of one checkpoint."""
    modes = [mode for mode in MODE_LABELS if any(mode in row for row in rows.values())]
    complete = [name for name, row in rows.items() if all(mode in row for mode in modes)]
    own = next((r for row in rows.values() for mode in ("corpus", "null", "foreign") for r in row.get(mode, ())), None)
    title = f"{own['name']} ({own['model'][:12]})" if own else "Baselines"
    first = next((r for row in rows.values() for r in row.get("plain", ())), None)
    seeds = sorted({r["seed"] for row in rows.values() for r in row.get("corpus", ())})
    lines = [f"## {title}, {dtype}", ""]
    if first:
        lines += [f"Texts cut at {first['max_length']} tokens. First stage {first['first_stage'][:12]}.", ""]
    if own:
        sizes = {r["context_documents"] for row in rows.values() for r in row.get("corpus", ())}
        lines += [
            f"Context: at most {max(sizes, default=0)} documents, sampled with seed {', '.join(map(str, seeds))}.",
            "",
        ]
    lines += quality_table(rows, modes, complete)
    lines += means_table(rows, modes, complete)
    for mode in CONTEXTS:
        if mode in modes:
            lines += differences(rows, [name for name in rows if mode in rows[name]], mode)
    return lines


def by_size(results: Sequence[dict[str, Any]], model: str | None, dtype: str, file: Path) -> list[str]:
    """Return what the corpus context gains at each size, and what it gains how far from home; draws both."""
    own = [r for r in results if (r["model"], r["dtype"]) == (model, dtype)]
    null = {r["set"]: r for r in own if r["mode"] == "null"}
    corpus = [r for r in own if r["mode"] == "corpus" and r["set"] in null]
    sizes = sorted({r["size"] for r in corpus if r.get("size") is not None})
    if not sizes:
        return []
    lines = ["| context documents | corpus minus null context, mean of sets | least set | most |", "|--:|--:|--:|--:|"]
    gains: dict[int | None, dict[str, float]] = {}
    for size in (*sizes, None):
        for name in null:
            here = [r for r in corpus if (r["set"], r.get("size")) == (name, size)]
            if here:
                gains.setdefault(size, {})[name] = value(here) - value([null[name]])
    most = max(r["context_documents"] for r in corpus)
    for size, by_set in gains.items():
        values = list(by_set.values())
        label = f"{most}, or all there are" if size is None else size
        lines.append(f"| {label} | {np.mean(values):+.2f} | {min(values):+.1f} | {max(values):+.1f} |")
    distances = {r["set"]: r["distance"] for r in corpus if r.get("distance") is not None}
    name = f"{file.stem}-{str(model)[:8]}"
    draw(gains, most, distances, file.with_name(name))
    pictures = [f"![Gain against context size]({name}-size.svg)"]
    if distances:
        pictures.append(f"![Gain against distance from the training domains]({name}-distance.svg)")
    return [*lines, "", *pictures, ""]


def draw(gains: dict[int | None, dict[str, float]], most: int, distances: dict[str, float], stem: Path) -> None:
    """Draw gain against context size, and gain at full size against distance from the prior, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quality"
    from matplotlib import pyplot as plt

    sizes = [most if size is None else size for size in gains]
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in next(iter(gains.values())):
        axes.plot(sizes, [by_set.get(name, np.nan) for by_set in gains.values()], alpha=0.4, label=name)
    axes.plot(sizes, [np.mean(list(by_set.values())) for by_set in gains.values()], "k-o", label="mean")
    axes.set(xscale="log", xlabel="context documents", ylabel="nDCG@10 x 100 over null context")
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend(fontsize=6)
    figure.savefig(f"{stem}-size.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    if distances:
        figure, axes = plt.subplots(figsize=(6, 4))
        for name, distance in distances.items():
            axes.plot(distance, gains[None][name], "ko")
            axes.annotate(name, (distance, gains[None][name]), fontsize=7)
        axes.set(
            xlabel="divergence of document frequencies from the training domains, bits",
            ylabel="nDCG@10 x 100 over null context",
        )
        axes.axhline(0, color="grey", linewidth=0.5)
        figure.savefig(f"{stem}-distance.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def value(results: Sequence[dict[str, Any]], name: str = "ndcg_at_10") -> float:
    """Return 100 times a measure, the mean over context seeds."""
    return 100 * float(np.mean([r[name] for r in results]))


def quality_table(rows: Rows, modes: Sequence[str], complete: Sequence[str]) -> list[str]:
    """Return nDCG@10 by set and mode; the mean is over sets that have every mode."""
    lines = [
        "| set | documents | queries | " + " | ".join(MODE_LABELS[mode] for mode in modes) + " |",
        "|---|--:|--:|" + "--:|" * len(modes),
    ]
    for name, row in rows.items():
        any_result = next(iter(row.values()))[0]
        cells = [f"{value(row[mode]):.1f}" if mode in row else "-" for mode in modes]
        lines.append(f"| {name} | {any_result['documents']} | {any_result['queries']} | " + " | ".join(cells) + " |")
    cells = [
        f"**{np.mean([value(rows[name][mode]) for name in complete]):.2f}**" if complete else "-" for mode in modes
    ]
    lines.append(f"| **mean of {len(complete)}** | | | " + " | ".join(cells) + " |")
    return [*lines, ""]


def means_table(rows: Rows, modes: Sequence[str], complete: Sequence[str]) -> list[str]:
    """Return the means of all measures."""
    if not complete:
        return []
    lines = ["| mean | " + " | ".join(MODE_LABELS[mode] for mode in modes) + " |", "|---|" + "--:|" * len(modes)]
    for name, label in MEASURES.items():
        cells = [f"{np.mean([value(rows[s][mode], name) for s in complete]):.2f}" for mode in modes]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def differences(rows: Rows, sets: Sequence[str], mode: str = "corpus") -> list[str]:
    """Return corpus context, as one vector or in two parts, minus its rivals with intervals, and where it loses."""
    lines = [
        f"| {MODE_LABELS[mode]} minus | nDCG@10 | 95 %, over queries | 95 %, over sets | loses on |",
        "|---|--:|---|---|---|",
    ]
    for rival in (*RIVALS, *CONTEXTS[mode]):
        shared = [name for name in sets if rival in rows[name]]
        if not shared:
            continue
        paired = {name: 100 * (per_query(rows[name][mode]) - per_query(rows[name][rival])) for name in shared}
        mean, low, high = bootstrap(list(paired.values()))
        _, least, most = bootstrap([np.array([values.mean() for values in paired.values()])])
        losses = [f"{name} {values.mean():+.1f}" for name, values in paired.items() if values.mean() < 0]
        label = f"{MODE_LABELS[rival]} ({len(shared)} sets)"
        cells = [label, f"{mean:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{least:+.2f} to {most:+.2f}"]
        lines.append(f"| {' | '.join(cells)} | {', '.join(losses) or 'no set'} |")
    spread = [np.std([value([r]) for r in rows[name][mode]], ddof=1) for name in sets if len(rows[name][mode]) > 1]
    if spread:
        lines += ["", f"Standard deviation over context seeds, mean of {len(spread)} sets: {np.mean(spread):.2f}."]
    note = "Foreign context: " + ", ".join(
        f"{name} ← {rows[name]['foreign'][0]['context_of']}" for name in sets if "foreign" in rows[name]
    )
    return [*lines, "", note + ".", ""]


def per_query(results: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return nDCG@10 by query, the mean over context seeds, (q,)."""
    return np.mean([r["ndcg_per_query"] for r in results], axis=0, dtype=np.float64)


def footer(content: dict[str, Any]) -> list[str]:
    """Return how the figures were made."""
    return [
        "## How",
        "",
        f"Intervals: {RESAMPLES:,} bootstrap resamples (seed {SEED}), paired over the queries of a set, then averaged "
        "over sets; or over the sets' means, as if other sets had been drawn. Means are over sets that "
        "have every mode. BM25: bm25s defaults, Snowball English stemmer, English stop words. PCA whitening is the "
        "textbook one, power 0.5 over all spanned directions; shrunk whitening shrinks the covariance by OAS; "
        "soft whitening is that with power 0.25; all-but-the-top removes d / 100 directions. Each is fitted on the "
        "corpus's document vectors. BM25 + plain: by reciprocal ranks (constant 60), or weighted sums of scores, the "
        "100 best of each scaled to 0 ... 1 a query; the best of the four a set is an oracle that no user has.",
        "",
        "```",
        *content["commands"],
        "```",
        "",
        ", ".join(f"{name} {value}" for name, value in content["environment"].items()),
    ]
