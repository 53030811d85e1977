"""Train the encoder of one domain after the other with `cde-train fit`, and put what came of it on a page.

    python -m benchmarks.fitted --pairs ../shared/pairs --domains man_linux medquad ... \
        --judged ../shared/eval --sets claude_docs xquad_en ... [--output runs/fitted] [--page docs/figures/fitted.md]

With pairs: of a domain's file at most `MOST` documents are taken, drawn at random. `SHARE` of them is held out with its
queries, as much again chooses the best weights; figures are the run's own report, of held-out queries. Without: the
documents of a judged set alone are given, as a folder would be; queries are made of them, and figures are of the judged
queries, which the run never saw. All else is the preset `default`. A run that is done is not done again, one that was
interrupted goes on.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cde_retriever.files.replacing import write_atomically
from cde_train.cli import main as run_command
from cde_train.data.pairs import write_pairs
from cde_train.data.readers import read_data
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.run.sections import BUNDLED_START

MOST = 2000
SHARE = 0.15
COLUMNS = {
    "bm25": "BM25",
    "plain": "trained, plain",
    "mixture": "trained, plain + BM25",
    "start": "one vector: start",
    "corpus": "trained",
    "start_hybrid": "two parts: start",
    "hybrid": "trained",
}


@dataclass(frozen=True)
class Fitted:
    """A run: its name, steps taken, and a comparison of `cde-train` as JSON holds it."""

    name: str
    steps: int
    report: dict[str, Any]

    def mean(self, mode: str) -> float:
        """Return a mode's nDCG@10 x 100."""
        return 100 * float(self.report["means"][mode]["ndcg_at_10"])

    def row(self) -> list[str]:
        """Return the cells of the run's row."""
        first = self.report["results"][0]
        gain = next(d for d in self.report["differences"] if d["rival"] == "start_hybrid")
        mean, low, high = (100 * gain[key] for key in ("mean", "low", "high"))
        sizes = map(str, [first["queries"], first["documents"], self.steps])
        figures = (f"{self.mean(mode):.1f}" for mode in COLUMNS)
        return [self.name, *sizes, *figures, f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"]


def fit_pairs(file: Path, name: str, output: Path, base: str | None) -> Fitted:
    """Train on a domain's pairs and return the run with its own report."""
    drawn = output / "data" / f"{name}.jsonl"
    if not drawn.is_file():
        pairs = read_data(file).pairs
        documents = list(dict.fromkeys(pair.document for pair in pairs))
        random.Random(0).shuffle(documents)
        kept = set(documents[:MOST])
        drawn.parent.mkdir(parents=True, exist_ok=True)
        write_pairs([pair for pair in pairs if pair.document in kept], drawn)
    _fit(drawn, output / name, base, "--set", f"held_out.share={SHARE}")
    return _fitted(name, output, output / name / "report.json")


def fit_documents(folder: Path, name: str, output: Path, base: str | None) -> Fitted:
    """Train on a judged set's documents and return the run with what its judged queries say."""
    file, results = output / "data" / f"{name}.jsonl", output / f"{name}.json"
    texts = [text for text in read_retrieval_set(folder).documents if text.strip()]
    write_atomically(file, "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    _fit(file, output / name, base)
    _run("evaluate", output / name, folder, "--start", base or BUNDLED_START, "-o", results)
    return _fitted(name, output, results)


def _fit(data: Path, output: Path, base: str | None, *more: str) -> None:
    if not (output / "report.json").is_file():
        _run("fit", data, "-o", output, *more, *(["--base", base] if base else []))


def _run(*arguments: object) -> None:
    command = [str(argument) for argument in arguments]
    code = run_command(command)
    if code:
        raise RuntimeError(f"cde-train {' '.join(command)} ended with {code}")


def _fitted(name: str, output: Path, report: Path) -> Fitted:
    steps = json.loads((output / name / "work" / "manifest.json").read_text())["steps"]
    return Fitted(name, steps["training training"]["report"]["steps"], json.loads(report.read_text()))


def markdown(sections: dict[str, list[Fitted]], base: str) -> str:
    """Return the page: a section a kind of data, a row a run, and means."""
    lines = [
        "# An encoder trained on one domain, beneath the corpus head",
        "",
        "Written by `python -m benchmarks.fitted`, which says what is trained and what is asked. 100 nDCG@10 under the "
        f"corpus's own context, one seed, 95 % intervals over queries. The start is {base}. "
        '"Plain" and "plain + BM25" (0.6 and 0.4) are of the trained encoder.',
    ]
    heads = ["", "queries", "documents", "steps", *COLUMNS.values(), "two parts: gain over the start"]
    for title, runs in sections.items():
        lines += ["", f"## {title}", "", "| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 2) + "---|"]
        lines += ["| " + " | ".join(run.row()) + " |" for run in runs]
        means = {mode: float(np.mean([run.mean(mode) for run in runs])) for mode in COLUMNS}
        cells = ["mean", "", "", "", *(f"{mean:.1f}" for mean in means.values())]
        lines.append("| " + " | ".join([*cells, f"{means['hybrid'] - means['start_hybrid']:+.1f}"]) + " |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fitted", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, help="folder of files of pairs, NAME.jsonl.gz")
    parser.add_argument("--domains", nargs="+", default=[], help="which of them (default: none)")
    parser.add_argument("--judged", type=Path, help="folder of judged sets")
    parser.add_argument("--sets", nargs="+", default=[], help="which of them (default: none)")
    parser.add_argument("--base", help=f"encoder or checkpoint to start from (default: {BUNDLED_START})")
    parser.add_argument("--output", type=Path, default=Path("runs/fitted"), help="folder of the runs")
    parser.add_argument("--page", type=Path, default=Path("docs/figures/fitted.md"), help="page to write")
    options = parser.parse_args(arguments)
    base, output = options.base, options.output
    sections = {
        "Pairs: held-out queries": [
            fit_pairs(options.pairs / f"{n}.jsonl.gz", n, output, base) for n in options.domains
        ],
        "Documents alone: judged queries": [fit_documents(options.judged / n, n, output, base) for n in options.sets],
    }
    sections = {title: runs for title, runs in sections.items() if runs}
    write_atomically(options.page, markdown(sections, Path(base or BUNDLED_START).name).encode())
    kept = {
        title: {
            run.name: {"steps": run.steps} | {key: run.report[key] for key in ("sha256", "means", "differences")}
            for run in runs
        }
        for title, runs in sections.items()
    }
    write_atomically(options.page.with_suffix(".json"), (json.dumps(kept, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
