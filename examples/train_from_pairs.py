"""Train on pairs of queries and answers, in a few steps, to see what is written where.

python -m examples.train_from_pairs
"""

import json
from pathlib import Path
from typing import Any

from cde_train.cli import main as cde_train
from examples.training_pairs import write_pairs

# So few and short steps are for seeing, not for learning. Leave all of these out for your data.
FEW_STEPS = (
    "phase.0.steps=2",
    "phase.0.batch_size=8",
    "phase.0.train_length=32",
    "phase.0.eval_steps=0",
    "phase.0.patience=0",
    "clustering.cluster_size=8",
    "held_out.share=0.2",
    "held_out.least=2",
    'surrogate.model=""',
)


def main(*settings: str) -> dict[str, Any]:
    """Train, and return the report, which says whether the result beats its start, BM25 and whitening."""
    count = write_pairs(Path("pairs.jsonl"))
    print(f"{count} pairs")
    chosen = [argument for setting in (*FEW_STEPS, *settings) for argument in ("--set", setting)]
    if cde_train(["fit", "pairs.jsonl", "-o", "my-cde", *chosen]) != 0:
        raise SystemExit(1)
    report: dict[str, Any] = json.loads(Path("my-cde/report.json").read_text())
    print(Path("my-cde/README.md").read_text())  # the model card; CDEEmbedding("my-cde") loads the model
    return report


if __name__ == "__main__":
    main()
