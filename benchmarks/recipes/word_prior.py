"""Count the word prior that comes with the package, on a folder of training pairs.

    python -m benchmarks.recipes.word_prior ../shared/pairs cde_retriever/words/priors/english

Of each domain at most `DOCUMENTS` documents, chosen by hash, are counted, and shares are averaged over domains, so that
a large one does not speak for all. Kept are numbers of words and shares, no text.
"""

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cde_retriever.words.reading import WordReader
from cde_retriever.words.statistics import WordStatistics

DOCUMENTS = 1000
LEAST_DOMAINS = 2
WORDS = 32_768


def documents_of(file: Path) -> list[str]:
    """Return a domain's documents: distinct ones, the `DOCUMENTS` with the least hashes."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        texts = {json.loads(line)["document"] for line in lines}
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[:DOCUMENTS]


def count(files: Sequence[Path], language: str) -> tuple[dict[int, float], float, float]:
    """Return the mean share of each word, that of a word seen in one domain alone, and the mean length."""
    reader = WordReader(language)
    shares: dict[int, float] = {}
    domains: dict[int, int] = {}
    lengths = []
    for file in files:
        found = WordStatistics.of(reader.read(documents_of(file), "document").words)
        lengths.append(found.mean_length)
        for word, holding in zip(found.words.tolist(), found.documents_with.tolist(), strict=True):
            shares[word] = shares.get(word, 0.0) + holding / found.documents / len(files)
            domains[word] = domains.get(word, 0) + 1
    rare = [share for word, share in shares.items() if domains[word] < LEAST_DOMAINS]
    known = {word: share for word, share in shares.items() if domains[word] >= LEAST_DOMAINS}
    return known, float(np.median(rare)), float(np.mean(lengths))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table of words and shares (.npy) and the two numbers beside it (.json)."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes.word_prior", description=__doc__.splitlines()[0]
    )
    parser.add_argument("pairs", type=Path, help="folder of NAME.jsonl.gz, one domain a file")
    parser.add_argument("output", type=Path, help="where to, without ending")
    parser.add_argument("--language", default="english", help="Snowball stemmer (default: english)")
    options = parser.parse_args(arguments)
    files = sorted(options.pairs.glob("*.jsonl.gz"))
    known, unseen, mean_length = count(files, options.language)
    most = sorted(known, key=lambda word: (-known[word], word))[:WORDS]
    table = np.array(sorted((word, known[word]) for word in most), dtype=[("word", "<u4"), ("share", "<f4")])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    np.save(options.output.with_suffix(".npy"), table, allow_pickle=False)
    numbers = {"unseen": round(unseen, 8), "mean_length": round(mean_length, 2), "domains": len(files)}
    options.output.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
