"""Write a page about a run: figures, losses, how hard batches were, what they left out, clusters, times, environment.

Read are the files that `cde_train.run.fit` leaves in a run's folder, finished or not; what is not there yet is left
out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.pages.page import Page
from cde_retriever.pages.plots import Plot, Table, intervals, lines
from cde_train.batching.clustering import Clustering
from cde_train.batching.difficulty import pair_difficulty
from cde_train.batching.packing import load_batches
from cde_train.batching.pair_vectors import views
from cde_train.data.pairs import TrainingPair
from cde_train.data.readers import read_pairs
from cde_train.evaluation.model_card import REPORT
from cde_train.evaluation.results import LABELS, MEASURES
from cde_train.report.timings import write_environments, write_run_timings, write_step_timings
from cde_train.run.config import load_run_config
from cde_train.run.folder import CONFIG_NAME, REPORT_FOLDER, RunFolder
from cde_train.run.phases import BATCHES, FILTER, STATES
from cde_train.run.preparation import CLUSTERS, PAIRS, VECTORS
from cde_train.run.sections import PhaseConfig
from cde_train.training.saved_state import COMPLETE_NAME
from cde_train.vectors.text_vectors import TextVectors

NORMS = ("grad_norm", "first_stage_gradient", "second_stage_gradient")
CURVES = (
    ("Loss", "loss", ("loss",)),
    ("Gradient norms", "norm before clipping", NORMS),
    ("Quality on the development set", "nDCG@10 (0 to 1)", ("eval_ndcg@10",)),
)
MOST_BATCHES = 200
"""Batches whose difficulty is computed, evenly over a phase."""
MOST_CLUSTERS, SAMPLED = 100, 3
"""Clusters that are listed, the hardest, and pairs of each."""
MOST_CHARACTERS = 300
"""Characters of a text that are shown."""


def write_run_page(run: Path) -> Page:
    """Return the page of a run.

    Args:
        run: The folder that `cde-train fit` wrote to.

    Raises:
        FileNotFoundError: if it holds no run.
        ArtifactError: if its manifest is damaged.
    """
    folder = RunFolder(run, lambda _: None)
    if not folder.manifest.is_file():
        raise FileNotFoundError(f"{run} holds no run; give the folder that cde-train fit wrote to")
    reports, config = folder.reports(), load_run_config(run / CONFIG_NAME)
    page = Page(f"Training run {run.resolve().name}")
    found = reports.get("report", {"advice": "It is not finished: there is no comparison yet."})
    if "advice" in found:  # runs of earlier versions have none
        page.text(found["advice"], strong=True)
    for verdict in found.get("verdicts", []):
        page.text(verdict)
    if (folder.work / REPORT_FOLDER / REPORT).is_file():
        _write_figures(page, json.loads((folder.work / REPORT_FOLDER / REPORT).read_text()))
    page.heading("Steps")
    rows = [
        (name, key.replace("_", " "), _said(value)) for name, report in reports.items() for key, value in report.items()
    ]
    page.table(Table(("step", "what", "value"), rows), "What each step reports, dropped data included")
    write_run_timings(page, folder.seconds())
    for phase in config.phase:
        page.heading(f"Phase {phase.name}")
        _write_phase(page, folder.work, phase, reports.get(f"{phase.name} batches", {}).get("batches_an_epoch"))
    if (folder.work / "data" / CLUSTERS).is_file():
        page.heading("Clusters")
        _write_clusters(page, folder.work)
    write_environments(page, folder.environments())
    page.heading("Settings").folded("run.toml", (run / CONFIG_NAME).read_text())
    return page


def _write_figures(page: Page, found: dict[str, Any]) -> None:
    """Write what was measured on the held-out part, given what report.json holds."""
    rows = [(LABELS[d["rival"]], *(100 * d[key] for key in ("mean", "low", "high"))) for d in found["differences"]]
    alt = "How much better the result is, under the context of the corpus, than each other way: right of 0 is better."
    title, unit = "The result minus each other way, with 95 % intervals over queries", "nDCG@10 (0 to 100)"
    page.plot(intervals(title, alt, rows, x=unit))
    means = [(LABELS[mode], *(100 * row[key] for key in MEASURES)) for mode, row in found["means"].items()]
    page.table(Table(("way", *MEASURES.values()), means), "What was measured on the held-out part (0 to 100)")


def _write_phase(page: Page, work: Path, phase: PhaseConfig, batches_an_epoch: int | None) -> None:
    place = work / f"phase-{phase.name}"
    log = _log(place / STATES)
    for plot in _curves(log, phase.name):
        page.plot(plot)
    write_step_timings(page, phase, log, batches_an_epoch)
    if (place / BATCHES).is_file() and (work / VECTORS).is_dir():
        page.plot(_difficulty(work, phase))
    if (place / FILTER).is_file():
        left_out = json.loads((place / FILTER).read_text())
        rows = [(name, *counts.values()) for name, counts in {**left_out["domains"], "all": left_out["total"]}.items()]
        headings = ("domain", *(name.replace("_", " ") for name in left_out["total"]))
        page.table(Table(headings, rows), f"False negatives that the batches of {phase.name} leave out")
        examples = [
            [
                *(_beginning(one["query"]), _beginning(one["positive"]), one["positive_score"]),
                *(_beginning(one["dropped"]), one["dropped_score"]),
            ]
            for one in left_out["examples"]
        ]
        headings = ("query", "its document", "cosine", "left out", "cosine")
        page.table(Table(headings, examples), f"Examples of what {phase.name} leaves out")


def _log(states: Path) -> list[dict[str, Any]]:
    """Return what a phase logged, from the last state that was saved; nothing if there is none."""
    whole = [state for state in states.glob("checkpoint-*") if (state / COMPLETE_NAME).is_file()]
    state = max(whole, key=lambda state: int(state.name.rpartition("-")[2]), default=None)
    log: list[dict[str, Any]]
    log = json.loads((state / "trainer_state.json").read_text())["log_history"] if state else []
    return log


def _curves(log: list[dict[str, Any]], phase: str) -> Iterator[Plot]:
    """Yield the curves of a phase, given its log."""
    for title, unit, names in CURVES:
        series = {}
        for name in names:
            found = [(entry["step"], entry[name]) for entry in log if name in entry]
            if found:
                series[name.replace("_", " ")] = [step for step, _ in found], [value for _, value in found]
        if series:
            ends = ", ".join(f"{name} from {ys[0]:.3g} to {ys[-1]:.3g}" for name, (_, ys) in series.items())
            yield lines(f"{title}, {phase}", f"{title} by step: {ends}.", series, x="step", y=unit)


def _difficulty(work: Path, phase: PhaseConfig) -> Plot:
    pairs = _pairs_of(work, phase)
    batches = load_batches(work / f"phase-{phase.name}" / BATCHES, pairs=len(pairs))
    steps = np.unique(np.linspace(0, len(batches) - 1, min(len(batches), MOST_BATCHES)).astype(int))
    queries, documents = views(pairs, TextVectors.open(work / VECTORS))
    found = []
    for step in steps:
        rows = batches[step].astype(np.int64)
        found.append(float(pair_difficulty(queries[rows], documents[rows], np.zeros(len(rows), np.int64)).mean()))
    alt = (
        f"Mean cosine of a pair's query with the other documents of its batch, from {found[0]:.3f} to {found[-1]:.3f}."
    )
    series = {"batch": ([int(step) + 1 for step in steps], found)}
    return lines(f"Difficulty of batches, {phase.name}", alt, series, x="step", y="mean cosine with the others")


def _pairs_of(work: Path, phase: PhaseConfig) -> list[TrainingPair]:
    """Return the pairs that a phase's batches number."""
    own = work / f"phase-{phase.name}" / PAIRS
    pairs = read_pairs(own if own.is_file() else work / (f"data-{phase.name}" if phase.data else "data") / PAIRS)
    return [pair for pair in pairs if len(pair.negatives) >= phase.hard_negatives]


def _write_clusters(page: Page, work: Path) -> None:
    pairs, clustering = read_pairs(work / "data" / PAIRS), Clustering.load(work / "data" / CLUSTERS)
    queries, documents = views(pairs, TextVectors.open(work / VECTORS))
    difficulty = pair_difficulty(queries, documents, clustering.labels)
    sizes = clustering.sizes
    means = np.bincount(clustering.labels, difficulty, len(sizes)) / sizes
    hardest = np.argsort(-means, kind="stable")[:MOST_CLUSTERS]
    rows = [
        (
            int(k),
            clustering.cluster_domains[k],
            int(sizes[k]),
            float(means[k]),
            _sampled(pairs, clustering.labels == k, difficulty),
        )
        for k in hardest
    ]
    listed = f"; the {MOST_CLUSTERS} hardest are listed" if len(sizes) > MOST_CLUSTERS else ", the hardest first"
    page.text(f"{len(pairs)} pairs in {len(sizes)} clusters{listed}.")
    page.table(Table(("cluster", "domain", "pairs", "difficulty", "its hardest queries"), rows), "Clusters")


def _sampled(pairs: list[TrainingPair], members: NDArray[np.bool_], difficulty: NDArray[np.float64]) -> str:
    rows = np.flatnonzero(members)
    hardest = rows[np.argsort(-difficulty[rows], kind="stable")[:SAMPLED]]
    return " | ".join(" ".join(pairs[row].query.split())[:100] for row in hardest)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        value = [f"{name}: {count}" for name, count in value.items()] or ["none"]
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _beginning(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rsplit(maxsplit=1)[0] + " …"
