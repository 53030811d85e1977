"""Write the 52 corpora of the training pairs' sources as judged sets, which `benchmarks.quality` reads.

    python -m benchmarks.recipes.pair_sets ../shared/pairs runs/pair_sets

Of each source the documents of `QUERIES` queries, filled up to `DOCUMENTS`, and every query whose documents are all
among them; the draw is the same every time. Queries with more than `MOST_RELEVANT` documents, which are names of
chapters, are left out.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cde_retriever.files.replacing import replacing_folder

DOCUMENTS, QUERIES, MOST_RELEVANT = 300, 80, 5


def write_set(pairs: Path, folder: Path) -> None:
    """Write the set of one source."""
    by_query: dict[str, list[str]] = {}
    with gzip.open(pairs, "rt") as lines:
        for row in map(json.loads, lines):
            by_query.setdefault(row["query"].strip(), []).append(row["document"])
    rng = np.random.default_rng(0)
    queries = sorted(by_query)
    rng.shuffle(queries)
    queries = [query for query in queries if len(set(by_query[query])) <= MOST_RELEVANT]
    judged = list(dict.fromkeys(text for query in queries[:QUERIES] for text in by_query[query]))
    others = sorted({text for texts in by_query.values() for text in texts} - set(judged))
    rng.shuffle(others)
    documents = judged + others[: max(0, DOCUMENTS - len(judged))]
    documents = [documents[i] for i in rng.permutation(len(documents))]
    place = {text: i for i, text in enumerate(documents)}
    queries = [query for query in queries if all(text in place for text in by_query[query])]
    with replacing_folder(folder, start_empty=True) as new:
        for name, texts in (("corpus", documents), ("queries", queries)):
            rows = (json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts))
            (new / f"{name}.jsonl").write_text("".join(rows))
        relevant = ((i, place[text]) for i, query in enumerate(queries) for text in dict.fromkeys(by_query[query]))
        (new / "qrels.tsv").write_text("".join(f"{query}\t0\t{document}\t1\n" for query, document in relevant))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all sets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes.pair_sets", description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, help="folder of pairs")
    parser.add_argument("output", type=Path, help="folder of sets")
    options = parser.parse_args(arguments)
    files = sorted(options.pairs.glob("*.jsonl.gz"))
    for file in files:
        write_set(file, options.output / file.name.removesuffix(".jsonl.gz"))
    print(f"{len(files)} sets written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
