"""Vectors of a judged set under its own context, made once and kept: several measurements read them."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cde_retriever.backends.export_folder import SECOND_STAGE
from cde_retriever.backends.onnx_runtime import OnnxBackend
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_train.data.retrieval_sets import RetrievalSet

SEED = 0

Vectors = NDArray[np.float32]


def kept_vectors(encoder: ContextualEncoder, data: RetrievalSet, dtype: str, cache: Path) -> tuple[Vectors, Vectors]:
    """Return vectors of documents and queries of an export, context fitted with seed 0; from the cache if there.

    Args:
        encoder: On ONNX Runtime or OpenVINO.
        data: The set.
        dtype: The export's precision.
        cache: Folder to keep them in.
    """
    size = encoder.backend.export.files[SECOND_STAGE]  # type: ignore[attr-defined] # another export has another
    runtime = "onnx" if isinstance(encoder.backend, OnnxBackend) else "openvino"
    file = cache / f"{encoder.identity.sha256[:12]}-{runtime}-{dtype}-{size}-{data.name}.npz"
    if not file.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            encoder.fit_context(data.documents, seed=SEED)
            documents = encoder.encode_documents(data.documents, show_progress=True)
            queries = encoder.encode_queries(data.queries)
        cache.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(".half.npz")
        np.savez(half, documents=documents, queries=queries)
        half.replace(file)
    with np.load(file, allow_pickle=False) as stored:
        return stored["documents"], stored["queries"]
