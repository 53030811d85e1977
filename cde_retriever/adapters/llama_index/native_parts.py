"""Search texts in two parts in a store that keeps sparse vectors itself, such as Qdrant.

    store = QdrantVectorStore("handbook", client=client, enable_hybrid=True, **sparse_functions(embedding))

Stores fuse two rankings by ranks or by scores that they stretch a query. Here both lists are fetched deeper than asked,
what one list lacks is asked for by its ids, and the scores are added: exact over all that either list holds. A node
outside of both scores at most the sum of the last scores of the two.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from cde_retriever.adapters.contextual_embedding import ContextualEmbedding
from cde_retriever.adapters.stamps import check_stamp
from cde_retriever.search.hybrid import depth_of_lists, sparse_vectors, weights_of

Held = TypeVar("Held", bound=ContextualEmbedding)
Lists = tuple[list[list[int]], list[list[float]]]
SPARSE, DENSE = VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.DEFAULT


class SparseFunction:
    """Makes sparse parts of texts in one role, as lists.

    Args:
        embedding: The index's; it may get its context later, from the index.
        role: ``"document"`` or ``"query"``.
    """

    def __init__(self, embedding: ContextualEmbedding, role: str) -> None:
        self.embedding = embedding
        self._role = role

    def __call__(self, texts: Sequence[str]) -> Lists:
        """Return places and values of each text."""
        encoder = self.embedding.encoder
        encode = encoder.encode_queries if self._role == "query" else encoder.encode_documents
        rows = list(sparse_vectors(encode(texts, parts="sparse")))
        return [row.indices for row in rows], [row.values for row in rows]


def sparse_functions(embedding: ContextualEmbedding) -> dict[str, Any]:
    """Return what `QdrantVectorStore` takes to make sparse vectors and to add scores, by its own names.

    Args:
        embedding: The one that the index gets as ``embed_model``.
    """
    return {
        "sparse_doc_fn": SparseFunction(embedding, "document"),
        "sparse_query_fn": SparseFunction(embedding, "query"),
        "hybrid_fusion_fn": add_scores,
    }


def _function(store: object) -> SparseFunction | None:
    function = getattr(store, "_sparse_query_fn", None) if getattr(store, "enable_hybrid", False) else None
    return function if isinstance(function, SparseFunction) else None


def keeps_sparse_vectors(store: object) -> bool:
    """Tell whether a store was made to keep the sparse parts of `sparse_functions` beside dense vectors."""
    return _function(store) is not None


def form_for(store: object, embedding: Held) -> Held:
    """Return the embedding whose vectors a store takes: its dense part where the store keeps the sparse ones too."""
    return embedding.dense_part() if embedding.parts == "one" and keeps_sparse_vectors(store) else embedding


def check_functions(store: object, embedding: ContextualEmbedding) -> None:
    """Refuse a store whose sparse vectors are not made under the index's context.

    Raises:
        ContextMismatchError: if they are made under another; names both.
        ContextNotFittedError: if their embedding has none.
    """
    function = _function(store)
    if function is not None:
        stamp = function.embedding.context_fingerprint
        check_stamp(stamp, embedding.context_fingerprint, f"what sparse_functions give {type(store).__name__}")


class NativeParts:
    """What a retriever asks instead of a store that keeps both parts.

    Args:
        store: The store.
    """

    is_embedding_query = True

    def __init__(self, store: BasePydanticVectorStore) -> None:
        self._store = store

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Answer a query with the sums of both scores, or with one of them, as its mode says."""
        plan = _plan(query)
        asked = next(plan)
        while True:
            try:
                asked = plan.send(self._store.query(asked, **kwargs))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do the same asynchronously."""
        plan = _plan(query)
        asked = next(plan)
        while True:
            try:
                asked = plan.send(await self._store.aquery(asked, **kwargs))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


def _plan(query: VectorStoreQuery) -> Generator[VectorStoreQuery, VectorStoreQueryResult, VectorStoreQueryResult]:
    """Yield what to ask a store, take its answers, and return that of the whole query."""
    if query.mode != VectorStoreQueryMode.HYBRID:
        return (yield query)
    nodes: dict[str, BaseNode] = {}
    scores: dict[VectorStoreQueryMode, dict[str, float]] = {}
    depth = depth_of_lists(query.similarity_top_k)
    for mode in (DENSE, SPARSE):
        scores[mode] = _read((yield replace(query, mode=mode, similarity_top_k=depth)), nodes)
    for mode in (DENSE, SPARSE):
        lacking = list(nodes.keys() - scores[mode].keys())
        if lacking:
            asked = replace(query, mode=mode, similarity_top_k=len(lacking), node_ids=lacking)
            scores[mode] |= _read((yield asked), nodes)
    return _summed(nodes, list(scores.values()), query.alpha, query.similarity_top_k)


def add_scores(
    dense_result: VectorStoreQueryResult, sparse_result: VectorStoreQueryResult, alpha: float = 0.5, top_k: int = 2
) -> VectorStoreQueryResult:
    """Return the best nodes by the sum of both scores, for stock retrievers; what one list lacks counts 0 there.

    Args:
        dense_result: What the store found by vectors.
        sparse_result: What it found by words.
        alpha: From 0, words alone, to 1, vectors alone; 0.5 is what the context says.
        top_k: How many nodes to return.
    """
    nodes: dict[str, BaseNode] = {}
    return _summed(nodes, [_read(result, nodes) for result in (dense_result, sparse_result)], alpha, top_k)


def _summed(
    nodes: dict[str, BaseNode], scores: Sequence[dict[str, float]], alpha: float | None, count: int
) -> VectorStoreQueryResult:
    weights = weights_of(alpha)
    sums = {
        name: sum(weight * found.get(name, 0.0) for weight, found in zip(weights, scores, strict=True))
        for name in nodes
    }
    best = sorted(sums, key=lambda name: -sums[name])[:count]
    return VectorStoreQueryResult(
        nodes=[nodes[name] for name in best], similarities=[sums[name] for name in best], ids=best
    )


def _read(result: VectorStoreQueryResult, nodes: dict[str, BaseNode]) -> dict[str, float]:
    found = result.nodes or []
    nodes |= {node.node_id: node for node in found}
    return {node.node_id: score for node, score in zip(found, result.similarities or [], strict=True)}
