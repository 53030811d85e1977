"""Tell how wide vectors are, and shorten them for stores in which size costs."""

import numpy as np
from numpy.typing import NDArray

from cde_retriever.backends.backend import Backend
from cde_retriever.context.head_settings import HeadSettings

Vectors = NDArray[np.float32]


def shorten(vectors: Vectors, dimension: int, sketch_width: int) -> Vectors:
    """Return the first numbers of unit vectors, at unit length, (n, dimension).

    Any numbers of a random projection are a random projection, only a noisier one. So where the vectors end with one
    (`cde_retriever.model.terms`), what is left of it is given the length of the whole: terms keep their weight. Other
    vectors lose little if the model was trained for it (Matryoshka; Kusupati et al. 2022), as the bundled one was not.

    Args:
        vectors: Unit vectors, (n, d).
        dimension: How many numbers to keep, from 1 to d.
        sketch_width: How many numbers at their end are a random projection.
    """
    start = vectors.shape[1] - sketch_width
    kept = vectors[:, :dimension].copy()
    if sketch_width and dimension > start:
        whole = np.linalg.norm(vectors[:, start:], axis=1, keepdims=True)
        kept[:, start:] *= whole / np.maximum(np.linalg.norm(kept[:, start:], axis=1, keepdims=True), 1e-12)
    unit: Vectors = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
    return unit


def full_dimension(backend: Backend) -> int:
    """Return the width of the vectors of a backend's model, what a corpus head adds included."""
    if backend.config.corpus_head is None:
        return backend.dimension
    return HeadSettings.from_dict(backend.config.corpus_head).full_width(backend.dimension)
