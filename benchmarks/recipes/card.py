"""Write the bundled checkpoint's model card: prose from here, every figure from the results of `benchmarks.quality`.

python -m benchmarks.recipes.card docs/figures/quality.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.mixtures import MIXTURE_LABELS
from benchmarks.quality_table import MODE_LABELS, Rows, per_query, section, select, value
from cde_retriever.checkpoint.folder import CONFIG_NAME, DEFAULT_CHECKPOINT, hash_checkpoint
from cde_retriever.files.replacing import write_atomically
from cde_train.evaluation.statistics import bootstrap

BEGINNING = """# {name}

A contextual document encoder for English retrieval, bundled with `cde-retriever`: all-MiniLM-L6-v2 as it is, and a head
that knows the corpus it searches from up to 8,192 sampled documents: neighbours and exact words.

| | |
|---|---|
| backbone | all-MiniLM-L6-v2, unchanged (6 layers, 384 wide, Apache-2.0; safetensors sha256 53aa5117…28d9db) |
| context | a sample's vectors and words, 2 (line) to 9.5 kB (abstract) each; a word prior where small; null context |
| documents | their vector, moved towards neighbours among up to 1,024 context documents: 384 numbers, unit length |
| two parts | that vector, dense, and exact weights of stems, grams and pairs, sparse; their inner products add up |
| one vector | that vector and 384 numbers that hold words: 768; a query's is fitted to 128 context documents near it |
| text | 256 tokens, no prompts; words are counted over the whole text |
| files | configuration here; weights (22.7 M numbers in half precision) and tokenizer are those of `cde-minilm-l6-v1` |
| licence | Apache-2.0 |

`python -m benchmarks.recipes.bundled` makes it, `cde wrap` does the same to any other encoder (`docs/encoders.md`).
What `cde-minilm-l6-v1`, `-v2` and `-v3` have stored opens with these models, which stay in the package.

## Data and licences

Nothing was trained. The word prior, one number a word, was counted on at most 1,000 documents each of the training
pairs' sources (`benchmarks/recipes/word_prior.py`): documentation, manual pages, textbooks (OpenStax), dictionaries,
FAQs, MedQuAD, film summaries, recipes, package descriptions, paper summaries. Licences of the sources: public domain,
permissive (MIT, BSD, Apache, PSF, PostgreSQL), CC BY and CC BY-SA, MPL, GFDL, GPL; no source text is in the package.
`python -m cde_train.data.decontamination` found no query or document of the evaluation sets among the 230,165 pairs
that they come from.

The head's numbers are the same for every corpus and every encoder. They were chosen looking at the ten sets below and
at 63 others, so the figures are those of development sets, not of held-out data.

## Figures
"""
LIMITS = """## Limits

English: another stemmer is a word away (`fit_context(language="german")`), the prior stays English. The dense part
reads 256 tokens. Weights are of MiniLM size: long or intricate documents are better served by larger encoders. One
vector ranks about as two parts do on the ten sets above, lower where questions share words with their answers. It knows
words best where context documents are, so it is worth most where the context holds the whole corpus, as it does in the
figures above. Under the null context and another corpus's it knows words as they are rare in general or there. A query
is fitted to its context, which takes 0.2 to 0.4 of the encoder's time more.
"""


RIVALS = {
    "corpus": ("plain", "convex_30", "convex_40", "foreign"),
    "hybrid": ("plain", "convex_30", "convex_40", "hybrid_null"),
}
MEANS = ("bm25", "plain", *MIXTURE_LABELS, "null", "corpus", "hybrid")


def losses(rows: Rows) -> list[str]:
    """Return what one vector and two parts are minus their rivals, and where they lose, a line a rival."""
    lines = ["## Where it loses", ""]
    for mode, rivals in RIVALS.items():
        for rival in rivals:
            shared = {name: row for name, row in rows.items() if rival in row and mode in row}
            if not shared:
                continue
            paired = {name: 100 * (per_query(row[mode]) - per_query(row[rival])) for name, row in shared.items()}
            mean, low, high = bootstrap(list(paired.values()))
            below = ", ".join(f"{name} {values.mean():+.1f}" for name, values in paired.items() if values.mean() < 0)
            lines.append(
                f"- {MODE_LABELS[mode]} minus {MODE_LABELS[rival]}, {len(paired)} sets: {mean:+.2f} "
                f"({low:+.2f} to {high:+.2f}). "
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
    means = {
        mode: np.mean([value(row[mode]) for row in rows.values()])
        for mode in MEANS
        if all(mode in row for row in rows.values())
    }
    lines = [
        BEGINNING.format(name=config["name"]),
        f"100 x nDCG@10 over the full corpus; intervals are over queries. Mean of {len(rows)} sets: "
        + ", ".join(f"{MODE_LABELS[mode]} {number:.2f}" for mode, number in means.items())
        + ". Other encoders, other corpora: `docs/hybrid.md`.",
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
    parser.add_argument("checkpoint", nargs="?", type=Path, default=DEFAULT_CHECKPOINT, help="default: the bundled one")
    options = parser.parse_args(arguments)
    write_atomically(options.checkpoint / "README.md", card(options.results, options.checkpoint).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
