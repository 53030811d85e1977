"""Draw the pairs of a recipe: the same ones every time, at most so many of each domain.

python -m benchmarks.recipes.draw ../shared/pairs runs/v1-pairs.jsonl --pairs-per-domain 300
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablation.data import DataConfig, draw_pairs
from benchmarks.pair_domains import by_domain
from cde_train.data.pairs import write_pairs
from cde_train.data.readers import read_pairs

NOISY = ("software vulnerabilities", "website privacy policies")
"""Full of false negatives, says the pairs' README."""
KEPT_OF_WORDNET = ("animal", "artifact", "person", "plant", "substance")
"""All of its parts would be a third of all domains."""


def left_out(pairs: str) -> tuple[str, ...]:
    """Return the domains a recipe does not use."""
    domains = by_domain(read_pairs(pairs))
    kept = {f"wordnet {part}" for part in KEPT_OF_WORDNET}
    return (*NOISY, *(name for name in domains if name.startswith("wordnet ") and name not in kept))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pairs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes.draw", description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="folder of pairs")
    parser.add_argument("output", type=Path, help="JSONL file to write")
    parser.add_argument("--pairs-per-domain", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    leave_out = left_out(options.pairs)
    settings = DataConfig(options.pairs, "", 0, options.pairs_per_domain, leave_out, options.seed)
    drawn = draw_pairs(settings)
    write_pairs(drawn, options.output)
    print(f"{len(drawn)} pairs of {len({pair.domain for pair in drawn})} domains written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
