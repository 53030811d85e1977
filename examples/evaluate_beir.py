"""Measure the bundled model, or yours, on a judged set of your own in BEIR's format, beside BM25 and the plain encoder.

python -m examples.evaluate_beir
"""

import json
import sys
from pathlib import Path
from typing import Any

from cde_train.cli import main as cde_train
from examples.training_pairs import pairs


def main(*model: str) -> dict[str, Any]:
    """Write a set, measure, and return what was measured."""
    judged = pairs()[:40]
    Path("set/qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": "", "text": document} for name, _, document in judged]
    queries = [{"_id": f"about {name}", "text": query} for name, query, _ in judged]
    lines = [f"about {name}\t{name}\t1" for name, _, _ in judged]
    Path("set/corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    Path("set/queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    Path("set/qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines, ""]))

    if cde_train(["evaluate", *model, "set", "-o", "results.json"]) != 0:  # prints the table
        raise SystemExit(1)
    results: dict[str, Any] = json.loads(Path("results.json").read_text())
    return results


if __name__ == "__main__":
    main(*sys.argv[1:])
