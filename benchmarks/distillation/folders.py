"""Run `cde-train fit --config distil` on five unlike folders, and judge by held-out pseudo-queries and by people's own.

    python -m benchmarks.distillation.folders --store ... --models MODEL ... --output runs/folders --page docs/...

A folder is some documents of a stored corpus (`FOLDERS`): answers of queries drawn at random, and others. The run sees
documents alone. Pseudo-queries of held-out documents are what its own report judges by; real queries with their
judgements it never saw, and their kept vectors serve. The next folder is the foreign context of the real ones. A run
that is done is not done again, and the page keeps what it says of other encoders.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.distillation.corpora import Store
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.files.replacing import write_atomically
from cde_train.cli import main as run_command
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.distillation.judging import compare_learned
from cde_train.distillation.teacher import Vectors
from cde_train.evaluation.statistics import bootstrap

FOLDERS = {
    "documentation": ("claude_docs", 232),
    "law": ("p_policyqa", 300),
    "medicine": ("scifact", 200),
    "code": ("cosqa", 400),
    "news": ("climate_fever", 400),
}
"""Stored corpora by kind, and how many documents to take, fewer of long ones: pages of an API, privacy policies,
biomedical abstracts, Python functions; no news reach this machine, and sentences of Wikipedia by which claims in the
news are checked stand for them."""
ANSWERS = 0.75
"""Share of the documents that answers of the drawn queries may take."""
RIVALS = ("start", "plain", "null", "foreign")


@dataclass(frozen=True)
class Folder:
    """Documents, real queries and their judgements, with plain vectors of both."""

    data: RetrievalSet
    documents: Vectors
    queries: Vectors


def draw(store: Store, name: str, most: int) -> Folder:
    """Draw documents of a stored corpus: answers of so many queries as fit, and others."""
    corpus, texts, asked = store.open(name), store.documents(name), store.queries(name)
    rng = np.random.default_rng(0)
    rows: dict[int, None] = {}
    for query in rng.permutation(len(corpus.relevant)):
        answers = corpus.relevant[query].keys()
        if len(rows.keys() | answers) <= ANSWERS * most:
            rows.update(dict.fromkeys(answers))
    rows.update(dict.fromkeys(int(row) for row in rng.permutation(len(corpus))[: most - len(rows)]))
    chosen = sorted(row for row in rows if texts[row].strip())
    place = {row: f"d{number}" for number, row in enumerate(chosen)}
    kept = [q for q, answers in enumerate(corpus.relevant) if answers.keys() <= place.keys()]
    data = RetrievalSet(
        name,
        tuple(place.values()),
        tuple(texts[row] for row in chosen),
        tuple(f"q{q}" for q in kept),
        tuple(asked[q] for q in kept),
        {f"q{q}": {place[row]: gain for row, gain in corpus.relevant[q].items()} for q in kept},
    )
    return Folder(data, corpus.vectors[0][chosen], corpus.vectors[1][kept])


def fit(folder: Folder, model: Path, output: Path) -> None:
    """Run the preset on the documents, or go on with it."""
    file = output.parent / f"{output.name}.jsonl"
    rows = "".join(json.dumps({"text": text}) + "\n" for text in folder.data.documents)
    write_atomically(file, rows.encode())
    code = run_command(["fit", str(file), "-o", str(output), "--config", "distil", "--base", str(model)])
    if code:
        raise RuntimeError(f"cde-train fit on {file} ended with {code}")


def judge(folder: Folder, foreign: Folder, output: Path) -> dict[str, Any]:
    """Return what came of a run by its own report and by real queries."""
    learned, start = (ContextualEncoder.from_pretrained(output / "work" / name) for name in ("model", "start"))
    known = PlainDocuments()
    known.add(foreign.data.documents, foreign.documents)
    learned.keep_plain(known)
    real = compare_learned(
        learned, start, folder.data, (folder.documents, folder.queries), foreign.data.documents
    ).to_dict()
    manifest = json.loads((output / "work" / "manifest.json").read_text())["steps"]
    reports = {"held_out": json.loads((output / "report.json").read_text()), "real": real}
    kept = {
        name: {
            "queries": report["results"][0]["queries"],
            "means": report["means"],
            "differences": report["differences"],
        }
        for name, report in reports.items()
    }
    learning = manifest["distillation"]
    seconds = sum(step["seconds"] for step in manifest.values())
    delivered = manifest["report"]["report"]["delivered"]
    return kept | {"learned": learning["report"], "seconds": seconds, "delivered": delivered}


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """Return the page's text."""
    lines = [
        "# The preset `distil` on five unlike folders",
        "",
        "Written by `python -m benchmarks.distillation.folders`, which says what the folders are.",
        "",
        "100 nDCG@10; what was learned under the folder's own context, minus rivals, with 95 % intervals over queries. "
        "The start is the same encoder with the shared numbers (256 directions, 0.11, 0.63). Seconds are of a machine "
        "that did other things too.",
    ]
    for name, title in (("held_out", "Pseudo-queries of held-out documents"), ("real", "Real queries, never seen")):
        lines += ["", f"## {title}"]
        for model in dict.fromkeys(result["encoder"] for result in found):
            lines += ["", *_table(model, [result for result in found if result["encoder"] == model], name)]
    return "\n".join([*lines, ""])


def _table(model: str, found: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Return one encoder's table, and on how many folders it is above the start, with the mean's interval over them."""
    differences = [_difference(result, name, "start") for result in found]
    mean, low, high = bootstrap([np.array([d["mean"] for d in differences])])
    above, beyond = sum(d["mean"] > 0 for d in differences), sum(d["low"] > 0 for d in differences)
    heads = [model, "queries", "directions, p, topics' worth", "plain", "start", "learned"]
    heads += [*(f"minus {rival}" for rival in RIVALS), "delivered", "seconds"]
    return [
        f"| {' | '.join(heads)} |",
        "|---|" + "--:|" * 5 + "---|" * len(RIVALS) + "---|--:|",
        *(_row(result, name) for result in found),
        "",
        f"Above the start on {above} of {len(found)} folders, beyond chance on {beyond}; mean {100 * mean:+.2f} "
        f"({100 * low:+.1f} to {100 * high:+.1f} over folders).",
    ]


def _difference(result: dict[str, Any], name: str, rival: str) -> dict[str, Any]:
    return next(dict(d) for d in result[name]["differences"] if d["rival"] == rival)


def _row(result: dict[str, Any], name: str) -> str:
    part, learned = result[name], result["learned"]
    cells = [result["folder"], str(part["queries"])]
    cells.append(f"{learned['directions']}, {learned['levelling']:.2f}, {learned['topic_weight']:.2f}")
    cells += [f"{100 * part['means'][mode]['ndcg_at_10']:.1f}" for mode in ("plain", "start", "corpus")]
    for rival in RIVALS:
        d = _difference(result, name, rival)
        cells.append(f"{100 * d['mean']:+.2f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})")
    return f"| {' | '.join([*cells, result['delivered'], format(result['seconds'], '.0f')])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the preset on every folder with every encoder, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distillation.folders", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of stored corpora, as `Store` says")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of encoders")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--page", type=Path, required=True, help="write PAGE.json and PAGE.md")
    options = parser.parse_args(arguments)
    page, names = options.page.with_suffix(".json"), [model.name for model in options.models]
    known = json.loads(page.read_text()) if page.is_file() else []
    found: list[dict[str, Any]] = [result for result in known if result["encoder"] not in names]
    for model in options.models:
        store = Store(options.store, None, model.name, 0)
        folders = {kind: draw(store, *taken) for kind, taken in FOLDERS.items()}
        kinds = list(folders)
        for number, kind in enumerate(kinds):
            output = options.output / model.name / kind
            output.parent.mkdir(parents=True, exist_ok=True)
            fit(folders[kind], model, output)
            judged = judge(folders[kind], folders[kinds[number - len(kinds) + 1]], output)
            found.append({"encoder": model.name, "folder": kind} | judged)
            json_text = json.dumps(found, indent=1) + "\n"
            write_atomically(page, json_text.encode())
            write_atomically(options.page.with_suffix(".md"), markdown(found).encode())
            sys.stderr.write(_row(found[-1], "held_out") + "\n" + _row(found[-1], "real") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
