"""What a corpus head is worth to an encoder that compares by inner product, whose vectors have lengths.

    python -m benchmarks.inner_products MODEL ../shared/eval/claude_docs ../shared/eval/med --vectors KEPT

MODEL is a folder of sentence-transformers, an encoder of BERT's kind that compares by cosine. nDCG@10, means of the
sets, of three ways: as it is; its unit vectors times `TIMES`, compared by inner product; and without its Normalize, its
last layer times `TIMES`, so that lengths differ, compared by inner product. The last is a model of its own, in a folder
that goes again. Plain vectors are kept in KEPT/MODEL and KEPT/MODEL-lengths, as `benchmarks.encoder_sizes` does.
"""

import argparse
import json
import math
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from safetensors.torch import load_file, save_file

from benchmarks.encoder_sizes import figures, kept_texts, open_cut
from benchmarks.head_ranking import PlainTexts
from cde_retriever.checkpoint.lengths import ROOM
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import read_retrieval_set

TIMES = 3.0
LAST_LAYER = re.compile(r"layer\.(\d+)\.output\.LayerNorm\.")
WAYS = ("as it is, cosine", "unit vectors times 3", "last layer times 3, no Normalize")
HEADER = "| vectors | lengths | plain | null | one vector | two parts |"


def write_with_lengths(model: Path, folder: Path) -> Path:
    """Write a model whose vectors have lengths, made of one whose vectors have none; return where."""
    shutil.copytree(model, folder)
    modules = json.loads((folder / "modules.json").read_text())
    kept = [module for module in modules if not module["type"].endswith("Normalize")]
    (folder / "modules.json").write_text(json.dumps(kept))
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"similarity_fn_name": "dot"}))
    weights = load_file(folder / "model.safetensors")
    layers = {name: int(found[1]) for name in weights if (found := LAST_LAYER.search(name))}
    for name in (name for name, number in layers.items() if number == max(layers.values())):
        weights[name] = weights[name] * TIMES
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def lengthened(texts: PlainTexts) -> PlainTexts:
    """Return unit vectors as an encoder gives them that multiplies them and keeps lengths (`model.projection`)."""
    queries, documents = texts.query_vectors, texts.document_vectors
    length = TIMES / 2.0 ** math.ceil(math.log2(ROOM * TIMES))  # as `checkpoint.lengths` scales them
    other = np.full((len(documents), 1), np.sqrt(1 - length**2), np.float32)
    return texts._replace(
        document_vectors=np.concatenate([length * documents, other], axis=1, dtype=np.float32),
        query_vectors=np.concatenate([queries, np.zeros((len(queries), 1))], axis=1, dtype=np.float32),
    )


def spread_of_lengths(texts: PlainTexts, longest: float) -> str:
    """Return the mean length of documents, and its standard deviation in hundredths of it."""
    lengths = longest * np.linalg.norm(texts.document_vectors[:, :-1], axis=1)
    return f"{lengths.mean():.1f} ± {100 * lengths.std() / lengths.mean():.0f} %"


def measure(model: Path, long: ContextualEncoder, sets: Sequence[Path], vectors: Path) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what the vectors are, their lengths, and the figures."""
    unit, longest = open_cut(model), long.config.projection[-1]["longest"]
    found: list[list[list[float]]] = []
    lengths = []
    for data in map(read_retrieval_set, sets):
        texts = kept_texts(unit, data.documents, data.queries, vectors / model.name / f"{data.name}.npz")
        own = kept_texts(long, data.documents, data.queries, vectors / f"{model.name}-lengths" / f"{data.name}.npz")
        ways = ((unit, texts), (long, lengthened(texts)), (long, own))
        found.append([figures(encoder, data, way) for encoder, way in ways])
        lengths.append(spread_of_lengths(own, longest))
        sys.stderr.write(f"{data.name} {lengths[-1]} {[[round(one, 1) for one in way] for way in found[-1]]}\n")
    stated = ("1", f"{TIMES:g}", ", ".join(lengths))
    means = (" | ".join(f"{fmean(one):.1f}" for one in zip(*way, strict=True)) for way in zip(*found, strict=True))
    return list(zip(WAYS, stated, means, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the three ways, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inner_products", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of an encoder")
    parser.add_argument("sets", nargs="+", type=Path, help="judged sets")
    parser.add_argument("--vectors", type=Path, required=True, help="folder of kept plain vectors")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", TruncationWarning)
    with tempfile.TemporaryDirectory() as place:
        long = open_cut(write_with_lengths(options.model, Path(place) / "model"))
        rows = measure(options.model, long, options.sets, options.vectors)
    lines = [HEADER, "|---|--:|--:|--:|--:|--:|", *(f"| {' | '.join(row)} |" for row in rows)]
    write_atomically(options.output, "\n".join(lines).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
