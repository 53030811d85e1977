"""`CDESparseEmbeddings`: the sparse part of texts for the hybrid mode of `langchain_qdrant`."""

from typing import Any

from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector

from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.search.hybrid import sparse_vectors


class CDESparseEmbeddings(SparseEmbeddings):
    """Exact weights of words, their grams and pairs, beside the dense vectors of an embedding under the same context.

    Words need no model, so this costs little beside the dense part.

    Args:
        embedding: The dense side, a `CDEEmbeddings` with ``parts="dense"``; its context is this one's.

    Raises:
        ConfigError: if the model has no corpus head.
    """

    def __init__(self, embedding: CDEEmbeddings) -> None:
        self.dense_embedding = embedding.dense_part()

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Return the sparse parts of documents, places ascending.

        Raises:
            ContextNotFittedError: if the embedding has no context yet.
        """
        _ = self.dense_embedding.context
        return _vectors(self.dense_embedding.encoder.encode_documents(texts, parts="sparse"))

    def embed_query(self, text: str) -> SparseVector:
        """Return the sparse part of a query; raises as `embed_documents` does."""
        _ = self.dense_embedding.context
        return _vectors(self.dense_embedding.encoder.encode_queries([text], parts="sparse"))[0]


def _vectors(sparse: Any) -> list[SparseVector]:
    return [SparseVector(indices=found.indices, values=found.values) for found in sparse_vectors(sparse)]
