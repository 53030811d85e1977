"""Run `cde-train fit --config distil` on five unlike folders, and judge by held-out pseudo-queries and by people's own.

    python -m benchmarks.distillation.folders MODEL ../shared/eval runs/pair_sets

A folder is some documents of a judged set (`FOLDERS`): answers of queries drawn at random, and others. The run sees
documents alone. Pseudo-queries of held-out documents are what its own report judges by; real queries with their
judgements it never saw. The next folder is the foreign context of the real ones. A run that is done is not done again,
and the page keeps what it says of other encoders.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.distillation.corpora import named, numbered
from benchmarks.quality import Bench
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import PlainDocuments
from cde_retriever.files.replacing import write_atomically
from cde_train.cli import main as run_command
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set, write_retrieval_set
from cde_train.distillation.judging import compare_learned
from cde_train.evaluation.statistics import bootstrap

FOLDERS = {
    "documentation": ("claude_docs", 232),
    "law": ("policyqa", 300),
    "medicine": ("scifact", 200),
    "code": ("cosqa", 400),
    "news": ("climate_fever", 400),
}
"""Judged sets by kind, and how many documents to take at most, fewer of long ones: pages of an API, privacy policies,
biomedical abstracts, Python functions; no news reach this machine, and sentences of Wikipedia by which claims in the
news are checked stand for them."""
ANSWERS = 0.75
"""Share of the documents that answers of the drawn queries may take."""
RIVALS = ("start", "plain", "null", "foreign")


def draw(data: RetrievalSet, kind: str, most: int) -> RetrievalSet:
    """Draw documents of a judged set: answers of so many queries as fit, and others."""
    answers, rng = numbered(data), np.random.default_rng(0)
    rows: dict[int, None] = {}
    for query in rng.permutation(len(answers)):
        if len(rows.keys() | answers[query].keys()) <= ANSWERS * most:
            rows.update(dict.fromkeys(answers[query]))
    rows.update(dict.fromkeys(int(row) for row in rng.permutation(len(data.documents))[: most - len(rows)]))
    chosen = sorted(row for row in rows if data.documents[row].strip())
    asked = [query for query, found in enumerate(answers) if found.keys() <= set(chosen)]
    return RetrievalSet(
        kind,
        tuple(f"d{row}" for row in chosen),
        tuple(data.documents[row] for row in chosen),
        tuple(f"q{query}" for query in asked),
        tuple(data.queries[query] for query in asked),
        {f"q{query}": {f"d{row}": gain for row, gain in answers[query].items()} for query in asked},
    )


def fit(documents: Path, model: Path, output: Path) -> None:
    """Run the preset on a file of documents, or go on with it."""
    code = run_command(["fit", str(documents), "-o", str(output), "--config", "distil", "--base", str(model)])
    if code:
        raise RuntimeError(f"cde-train fit on {documents} ended with {code}")


def judge(own: Path, foreign: Path, output: Path, cache: Path) -> dict[str, Any]:
    """Return what came of a run by its own report and by real queries; plain vectors are kept in the cache."""
    learned, start = (ContextualEncoder.from_pretrained(output / "work" / name) for name in ("model", "start"))
    bench = Bench(start, [own, foreign], cache=cache, dtype="float32")
    known, (other, texts) = PlainDocuments(), (bench.plain(folder) for folder in (foreign, own))
    known.add(other.documents, other.document_vectors)
    learned.keep_plain(known)
    vectors = texts.document_vectors, texts.query_vectors
    real = compare_learned(learned, start, bench.data(own)[0], vectors, other.documents).to_dict()
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
    return kept | {
        "learned": manifest["distillation"]["report"],
        "delivered": manifest["report"]["report"]["delivered"],
    }


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """Return the page's text."""
    lines = [
        "# The preset `distil` on five unlike folders",
        "",
        "Written by `python -m benchmarks.distillation.folders`, which says what the folders are.",
        "",
        "100 nDCG@10; what was learned under the folder's own context, minus rivals, with 95 % intervals over queries. "
        "The start is the same encoder with the shared numbers (256 directions, 0.11, 0.63).",
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
    heads += [*(f"minus {rival}" for rival in RIVALS), "delivered"]
    return [
        f"| {' | '.join(heads)} |",
        "|---|" + "--:|" * 5 + "---|" * len(RIVALS) + "---|",
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
    return f"| {' | '.join([*cells, result['delivered']])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the preset on every folder with an encoder, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distillation.folders", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", type=Path, help="folder of an encoder")
    parser.add_argument("sets", type=Path, nargs="+", help="judged sets, or folders of them")
    parser.add_argument("--runs", type=Path, default=Path("runs/folders"), help="folder of the runs")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of plain vectors")
    parser.add_argument(
        "--page", type=Path, default=Path("docs/figures/distillation-folders"), help="write PAGE.json and PAGE.md"
    )
    options = parser.parse_args(arguments)
    there = [found for folder in options.sets for found in find_retrieval_sets(folder)]
    names = [name for name, _ in FOLDERS.values()]
    folders = {}
    for (kind, (_, most)), source in zip(FOLDERS.items(), named(there, names), strict=True):
        folders[kind] = options.runs / "sets" / kind
        write_retrieval_set(draw(read_retrieval_set(source), kind, most), folders[kind])
    page, model = options.page.with_suffix(".json"), options.model.name
    known = json.loads(page.read_text()) if page.is_file() else []
    found: list[dict[str, Any]] = [result for result in known if result["encoder"] != model]
    kinds = list(folders)
    for kind, after in zip(kinds, [*kinds[1:], kinds[0]], strict=True):
        output = options.runs / model / kind
        fit(folders[kind] / "corpus.jsonl", options.model, output)
        found.append({"encoder": model, "folder": kind} | judge(folders[kind], folders[after], output, options.cache))
        write_atomically(page, (json.dumps(found, indent=1) + "\n").encode())
        write_atomically(options.page.with_suffix(".md"), markdown(found).encode())
        sys.stderr.write(_row(found[-1], "held_out") + "\n" + _row(found[-1], "real") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
