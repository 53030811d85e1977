"""Refuse what was retrieved under one context by vectors of another: a retriever and a node postprocessor.

LlamaIndex compares nothing: a query under the wrong context has the right width and gives some ranking.
"""

from dataclasses import replace
from typing import Any, cast

import numpy as np
from llama_index.core import VectorStoreIndex
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.guarded_store import is_empty
from cde_retriever.adapters.llama_index.storage import check_stamps
from cde_retriever.adapters.llama_index.two_parts import MODES, searcher
from cde_retriever.errors import ConfigError, ContextMismatchError
from cde_retriever.search.hybrid import check_alpha


class CDERetriever(VectorIndexRetriever):
    """Retrieves from a vector index and refuses nodes that were embedded under another context than the query.

    Args:
        index: The index.
        mode: ``"hybrid"`` adds the inner products of vectors and of exact words, ``"dense"`` and ``"sparse"`` take one
            of them. None: hybrid where the index holds both, else by its vectors.
        alpha: What vectors count beside words in hybrid search, from 0, words alone, to 1, vectors alone; None for 0.5,
            what the context says.
        kwargs: As for `VectorIndexRetriever`; a ``vector_store_query_mode`` asks the vector store itself.

    Raises:
        ConfigError: for an unknown mode, one that the index's form does not allow, or an alpha where nothing is mixed.
        TypeError: if the embedding is no `CDEEmbedding`.
    """

    def __init__(
        self, index: VectorStoreIndex, mode: str | None = None, alpha: float | None = None, **kwargs: Any
    ) -> None:
        if mode not in (None, *MODES):
            raise ConfigError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}")
        check_alpha(alpha)
        self._mode = mode
        self._asks_store_itself = mode is None and "vector_store_query_mode" in kwargs
        self._aimed = False
        super().__init__(index, alpha=alpha, **kwargs)
        if require_cde(self._embed_model).is_fitted or require_cde(self._embed_model).parts == "one":
            self._aim()

    def _aim(self) -> None:
        """Choose who answers: an index that begins without nodes has its parts with the first of them."""
        both = searcher(self._index)
        if self._mode is not None:
            _check_form(self._mode, both is not None)
        if both is not None and not self._asks_store_itself:
            self._vector_store_query_mode = MODES[self._mode or "hybrid"]
        if both is not None and self._vector_store_query_mode in MODES.values():
            self._vector_store = cast(BasePydanticVectorStore, both)
        if not self._asks_store_itself and self._vector_store_query_mode != MODES["hybrid"]:
            check_alpha(self._alpha, "one vector a node" if both is None else repr(self._mode))
        self._aimed = True

    def _finds_nothing(self) -> bool:
        """Tell whether the index is still without nodes, and so without a context; aim where it is not."""
        embedding = require_cde(self._embed_model)
        if not embedding.is_fitted:
            return is_empty(self._index.vector_store, embedding.dimension)
        if not self._aimed:
            self._aim()
        return False

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._finds_nothing():
            return []
        return self._checked(super()._retrieve(unembedded(query_bundle)))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._finds_nothing():
            return []
        return self._checked(await super()._aretrieve(unembedded(query_bundle)))

    def _checked(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        check_stamps((node.node for node in nodes), require_cde(self._embed_model).stamp)
        return nodes


class CDEContextGuard(BaseNodePostprocessor):
    """Makes the check of `CDERetriever` for nodes retrieved by a stock index class.

    Nodes are stamped by `CDEVectorStoreIndex` and by `CDEEmbedding` as a transformation
    (``transformations=[splitter, embed]``); a stock index that embeds them itself does not stamp them.

    Attributes:
        embed_model: The embedding queries are embedded with.
    """

    embed_model: CDEEmbedding

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises the class under."""
        return "CDEContextGuard"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        check_stamps((node.node for node in nodes), self.embed_model.stamp)
        if query_bundle is not None and query_bundle.embedding is not None:
            self._check_query(query_bundle)
        return nodes

    def _check_query(self, bundle: QueryBundle) -> None:
        """Refuse a query embedded by another retriever: each writes its vector into the bundle it is given."""
        if getattr(bundle.embedding, "stamp", None) == self.embed_model.stamp:
            return
        if bundle.embedding_strs:
            own = self.embed_model.get_agg_embedding_from_queries(bundle.embedding_strs)
            if len(own) == len(bundle.embedding or []) and np.allclose(own, bundle.embedding or [], rtol=0, atol=1e-4):
                return
        fingerprint = self.embed_model.context_fingerprint
        raise ContextMismatchError(
            f"the query {bundle.query_str!r:.80} brings a vector that context {fingerprint[:12]} does not give; pass "
            "each retriever a QueryBundle of its own, without an embedding"
        )


def _check_form(mode: str, two_parts: bool) -> None:
    if not two_parts and MODES[mode] != VectorStoreQueryMode.DEFAULT:
        raise ConfigError(
            f"mode is {mode!r}, but the index holds one vector a node; build it anew with a model that has a corpus "
            "head and parts='both' (docs/llama_index.md), or, if it has both, open it with its context_dir"
        )


def unembedded(bundle: QueryBundle) -> QueryBundle:
    """Return the query without a vector: who embedded it, and under which context, is unknown.

    An empty question is embedded too: LlamaIndex leaves it without a vector, which its stores fail on.

    Raises:
        ContextMismatchError: if there is nothing else.
    """
    if bundle.embedding is not None and not bundle.embedding_strs:
        raise ContextMismatchError(
            "the query is a vector without text, so its context is unknown; pass the text and it is embedded here"
        )
    return replace(bundle, embedding=None, custom_embedding_strs=bundle.embedding_strs or [bundle.query_str])


def require_cde(embed_model: object) -> CDEEmbedding:
    """Return a `CDEEmbedding`.

    Raises:
        TypeError: if it is something else.
    """
    if not isinstance(embed_model, CDEEmbedding):
        raise TypeError(
            f"embed_model is {type(embed_model).__name__}, expected a CDEEmbedding, which knows its context; use the "
            "stock VectorStoreIndex for other embeddings"
        )
    return embed_model
