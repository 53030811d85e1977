"""Train on a folder of documents without queries, in a few steps: cde-train makes the queries.

python -m examples.train_from_documents
"""

import json
from pathlib import Path
from typing import Any

from cde_train.cli import main as cde_train
from examples.small_corpus import few_docstrings
from examples.train_from_pairs import FEW_STEPS
from examples.training_pairs import MODULES


def main(*settings: str) -> dict[str, Any]:
    """Train, and return the report."""
    Path("docs").mkdir()
    for name, text in few_docstrings(*MODULES).items():
        Path("docs", f"{name}.txt").write_text(text)
    chosen = [argument for setting in (*FEW_STEPS, *settings) for argument in ("--set", setting)]
    if cde_train(["fit", "docs", "-o", "my-cde", *chosen]) != 0:
        raise SystemExit(1)
    with Path("my-cde/work/data/pairs.jsonl").open() as made:
        print("a query that was made:", json.loads(next(made))["query"])
    report: dict[str, Any] = json.loads(Path("my-cde/report.json").read_text())
    return report


if __name__ == "__main__":
    main()
