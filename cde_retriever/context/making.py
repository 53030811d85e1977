"""Make a context of a sample and what a model computed of it, or of vectors alone."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.context import Context, ModelIdentity
from cde_retriever.context.sampling import Sample, hash_text
from cde_retriever.words.corpus_words import CorpusWords


def make_context(
    sample: Sample,
    vectors: NDArray[np.float32] | None,
    model: ModelIdentity,
    *,
    store_texts: bool = False,
    needs: int | None = None,
    frequencies: NDArray[np.int64] | None = None,
    words: CorpusWords | None = None,
) -> Context:
    """Put a sample, its dataset embeddings, (J, d), its term statistics, (k, 2), and words together; None for none.

    Texts of which the sample has only the beginning are not stored.
    """
    return Context(
        vectors=np.zeros((len(sample.texts), 0), np.float32) if vectors is None else vectors,
        model=model,
        text_hashes=sample.hashes or tuple(map(hash_text, sample.texts)),
        texts=sample.texts if store_texts and sample.hashes is None else None,
        choice=sample.choice,
        documents_seen=sample.documents_seen,
        oversampled_to=needs if needs is not None and needs > len(sample.texts) else None,
        frequencies=np.zeros((0, 2), np.int64) if frequencies is None else frequencies,
        words=words,
    )


def listed_context(vectors: NDArray[np.float32], model: ModelIdentity, needs: int | None) -> Context:
    """Make a context of dataset embeddings, (J, d), without texts; what their bytes hash to stands for these."""
    return Context(
        vectors=vectors,
        model=model,
        text_hashes=tuple(hashlib.sha256(row.tobytes()).hexdigest() for row in vectors),
        texts=None,
        documents_seen=len(vectors),
        oversampled_to=needs if needs is not None and needs > len(vectors) else None,
    )
