"""Compare texts cut where the model cuts them with texts read whole, in windows.

    python -m benchmarks.long_texts CHECKPOINT SETS [--only claude_docs financebench] [--others 80]

Of each set the judged documents and `--others` of the rest, drawn with seed 0; nDCG@10 x 100 of plain vectors, two
parts and one vector under the context of them all. Writes a table to stdout.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.head_ranking import SEED, PlainTexts, fit_on_kept, rank_plain, rank_with_head
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.ranking import measure

READINGS = ("cut", "windows")


def with_fewer(data: RetrievalSet, others: int) -> RetrievalSet:
    """Return a set with its judged documents and so many of the others, in their order."""
    judged = {name for grades in data.relevant.values() for name in grades}
    rest = [row for row, name in enumerate(data.document_ids) if name not in judged]
    drawn = {rest[number] for number in np.random.default_rng(SEED).permutation(len(rest))[:others]}
    rows = [row for row, name in enumerate(data.document_ids) if name in judged or row in drawn]
    ids, texts = (tuple(values[row] for row in rows) for values in (data.document_ids, data.documents))
    return replace(data, document_ids=ids, documents=texts)


def figures(encoder: ContextualEncoder, data: RetrievalSet) -> list[float]:
    """Return nDCG@10 x 100 of plain vectors, two parts and one vector."""
    made = (encoder.encode_first_stage(data.documents), encoder.encode_first_stage(data.queries, role="query"))
    texts = PlainTexts(data.documents, data.queries, *made)
    context = fit_on_kept(encoder, texts)
    rankings = [rank_plain(texts), *(rank_with_head(encoder, texts, context, parts) for parts in ("both", "one"))]
    return [100 * measure(data, ranking).means()["ndcg_at_10"] for ranking in rankings]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_texts", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or name of a model with a corpus head")
    parser.add_argument("sets", type=Path, help="folder of judged sets")
    parser.add_argument("--only", nargs="+", default=["claude_docs", "financebench"], help="names of the sets")
    parser.add_argument("--others", type=int, default=80, help="documents of a set that are not judged (default: 80)")
    parser.add_argument("--dtype", default="bfloat16", help="precision of plain vectors (default: bfloat16)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", TruncationWarning)
    print("| set | documents | texts | plain | two parts | one vector |\n|---|--:|---|--:|--:|--:|")
    for folder in find_retrieval_sets(options.sets):
        if folder.name in options.only:
            data = with_fewer(read_retrieval_set(folder), options.others)
            for texts in READINGS:
                encoder = ContextualEncoder.from_pretrained(options.checkpoint, dtype=options.dtype, long_texts=texts)
                cells = " | ".join(f"{value:.1f}" for value in figures(encoder, data))
                print(f"| {data.name} | {len(data.documents)} | {texts} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
