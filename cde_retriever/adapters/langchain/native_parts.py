"""Search a Qdrant store that keeps both parts of its documents itself, and add their scores.

LangChain's hybrid mode fuses by ranks, which throws the scores away. A formula in the place of the fusion adds them.
Each list is fetched deeper than asked; a document that one of them lacks counts 0 there.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embedders import check_embedders
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.search.hybrid import depth_of_lists, weights_of


def keeps_both(store: VectorStore) -> bool:
    """Tell whether a store keeps sparse vectors of `CDESparseEmbeddings` beside dense ones."""
    words = getattr(vars(store).get("_sparse_embeddings"), "dense_embedding", None)
    return isinstance(words, CDEEmbeddings) and vars(store)["retrieval_mode"] == "hybrid"


def search_both(
    store: VectorStore,
    embedding: CDEEmbeddings,
    query: str,
    count: int,
    mode: str,
    search_kwargs: Mapping[str, Any],
    alpha: float | None = None,
) -> list[Document]:
    """Return the best documents for a query, best first.

    Args:
        store: For which `keeps_both` is true.
        embedding: What the caller holds to be the store's, with ``parts="dense"``.
        query: The query; the store embeds it.
        count: How many.
        mode: ``"hybrid"`` or ``"sparse"``.
        search_kwargs: Further arguments of the store's search.
        alpha: What vectors count beside words in ``"hybrid"`` (`cde_retriever.search.hybrid.weights_of`).

    Raises:
        ContextMismatchError: if the store, or a document, was embedded under another context.
    """
    from qdrant_client import models

    check_embedders(store, embedding.stamp)
    if mode == "sparse":
        words = copy(cast(Any, store))
        words.retrieval_mode = type(words.retrieval_mode)("sparse")
        found = words.similarity_search(query, k=count, **search_kwargs)
    else:
        scores = ["$score[0]", "$score[1]"]
        weighed: list[Any] = [
            models.MultExpression(mult=[weight, name]) for weight, name in zip(weights_of(alpha), scores, strict=True)
        ]
        added = models.FormulaQuery(formula=models.SumExpression(sum=weighed), defaults=dict.fromkeys(scores, 0.0))
        found = store.similarity_search(query, k=depth_of_lists(count), hybrid_fusion=added, **search_kwargs)[:count]
    return cast(list[Document], check_stamps(found, embedding.stamp))
