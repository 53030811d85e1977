"""Write the bundled checkpoint's model card: prose from here, every figure from the results of `benchmarks.quality`.

python -m benchmarks.recipes.card docs/quality.json cde_retriever/checkpoint/default_checkpoint
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.quality_table import section, select, value
from cde_retriever.checkpoint.folder import CONFIG_NAME, hash_checkpoint
from cde_retriever.files.replacing import write_atomically
from cde_train.evaluation.statistics import bootstrap

BEGINNING = """# {name}

A two-stage contextual document encoder for English retrieval, bundled with `cde-retriever`. It knows the corpus it
searches by its words: in how many of up to 512 sampled documents each token occurs.

| | |
|---|---|
| backbone | all-MiniLM-L6-v2, unchanged (6 layers, 384 wide, Apache-2.0; safetensors sha256 53aa5117…28d9db) |
| context | document frequencies of tokens in a sample of the corpus, smoothed by a prior; any size; null context |
| what it does | weighs tokens in pooling; lays a random projection of BM25-like term weights beside the pooled vector |
| vectors | 1,024 numbers, unit length: 384 of the pooled text, 640 of its terms |
| text | 256 tokens, no prompts |
| file | 22.7 M numbers in half precision, {megabytes:.0f} MB |
| licence | Apache-2.0 |

## Data and licences

Nothing was trained. The prior, one number a token, was counted on the documents of 44,724 pairs from 51 domains of
public text (at most 1,000 each): documentation (Python, Rust, Node.js, PostgreSQL, SQLite, Django, Apache, C++ …),
manual pages, textbooks (OpenStax), dictionaries (WordNet, GCIDE, FOLDOC, Jargon File), FAQs, MedQuAD, film summaries,
recipes, package descriptions, paper summaries. Licences of the sources: public domain, permissive (MIT, BSD, Apache,
PSF, PostgreSQL), CC BY and CC BY-SA, MPL, GFDL, GPL; no source text is in the checkpoint.
`python -m cde_train.data.decontamination` found no query or document of the evaluation sets among the 230,165 pairs
they come from.

The head's nine numbers (how much words weigh, how that turns with a text's length, how soon the corpus outweighs the
prior, how far what tokens say is drawn back to it) were chosen among about 1,200 combinations on the ten development
sets below and on 52 corpora of the pairs' sources. So the figures are those of development sets, not of held-out data.

## Compute

Two minutes on two CPU cores: `cde-train fit` with `benchmarks/recipes/cde-minilm-l6-v1.toml`, without its report.
Training the head on 14,374 pairs was tried and lost to these numbers (`docs/log.md`).

## Figures
"""
LIMITS = """## Limits

English. Texts are cut at 256 tokens, and words after that do not count either. Weights are of MiniLM size: long or
intricate documents are better served by larger encoders. A corpus of a handful of documents says little about its
words; the prior then speaks. Under the null context it is the plain encoder and words as common as anywhere: better
than the encoder alone on the mean, worse on some sets. The context must be that of the corpus: a foreign one costs.
"""


def losses(rows: dict[str, dict[str, list[dict[str, object]]]]) -> list[str]:
    """Return what corpus context is minus each rival, and where it loses, a line a rival."""
    lines = ["## Where it loses", ""]
    for rival, label in (("plain", "plain all-MiniLM-L6-v2"), ("null", "null context"), ("bm25", "BM25")):
        paired = {
            name: 100
            * (
                np.mean([r["ndcg_per_query"] for r in row["corpus"]], axis=0, dtype=np.float64)
                - np.mean([r["ndcg_per_query"] for r in row[rival]], axis=0, dtype=np.float64)
            )
            for name, row in rows.items()
            if rival in row
        }
        mean, low, high = bootstrap(list(paired.values()))
        below = ", ".join(f"{name} {values.mean():+.1f}" for name, values in paired.items() if values.mean() < 0)
        lines.append(
            f"- Corpus context minus {label}, {len(paired)} sets: {mean:+.2f} ({low:+.2f} to {high:+.2f}). "
            f"Below it on: {below or 'no set'}."
        )
    return [*lines, ""]


def card(results: Path, checkpoint: Path) -> str:
    """Return the card of a checkpoint; its figures are those of this very checkpoint.

    Raises:
        ValueError: if the results have none of it.
    """
    sha256 = hash_checkpoint(checkpoint)
    content = json.loads(results.read_text())
    dtypes = {r["dtype"] for r in content["results"] if r["model"] == sha256}
    if len(dtypes) != 1:
        raise ValueError(f"{results} has figures of {checkpoint} ({sha256[:12]}) in {len(dtypes)} dtypes, expected one")
    rows = select(content["results"], sha256, dtypes.pop())
    config = json.loads((checkpoint / CONFIG_NAME).read_text())
    size = (checkpoint / "model.safetensors").stat().st_size / 1e6
    means = {mode: np.mean([value(row[mode]) for row in rows.values()]) for mode in ("bm25", "plain", "null", "corpus")}
    lines = [
        BEGINNING.format(name=config["name"], megabytes=size),
        "100 x nDCG@10 over the full corpus; intervals are over queries. Mean of ten sets: "
        + ", ".join(f"{mode} {number:.2f}" for mode, number in means.items())
        + ". Gain against context size and against distance from the training domains: `docs/quality.md`.",
        "",
        *section(rows, "bfloat16")[2:],
        *losses(rows),
        LIMITS,
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the card."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes.card", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON of benchmarks.quality")
    parser.add_argument("checkpoint", type=Path, help="folder")
    options = parser.parse_args(arguments)
    write_atomically(options.checkpoint / "README.md", card(options.results, options.checkpoint).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
