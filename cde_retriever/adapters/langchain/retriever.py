"""`CDERetriever`: search a store by a query embedded here, and check what made the documents it returns."""

from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from pydantic import Field

from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings
from cde_retriever.adapters.langchain.native_parts import keeps_both, search_both
from cde_retriever.adapters.langchain.store_parts import check_search_kwargs, parts_of
from cde_retriever.adapters.own_class import own_class
from cde_retriever.errors import ConfigError
from cde_retriever.search.hybrid import check_alpha


class CDERetriever(BaseRetriever):
    """Search any store by a query embedded here, and check the context of every document it returns.

    Attributes:
        store: The store, guarded or not.
        embedding: Embeds the queries.
        mode: ``"hybrid"`` ranks by dense and sparse part together, ``"sparse"`` by exact words, ``"dense"`` by the
            store's vectors. None: hybrid if the store keeps its documents in two parts, else by its vectors.
        alpha: What vectors count beside words in hybrid search, from 0, words alone, to 1, vectors alone; None for 0.5,
            what the context says.
        k: How many documents to return.
        search_kwargs: Further arguments of the store's search, such as ``filter``; where an index beside the store is
            searched, ``"hybrid"`` and ``"sparse"`` know ``filter`` alone, a mapping of metadata to values or a function
            of a `Document`.
    """

    store: VectorStore
    embedding: CDEEmbeddings
    mode: Literal["hybrid", "dense", "sparse"] | None = None
    alpha: float | None = None
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, **fields: Any) -> None:  # after pydantic, which wraps errors that are ValueErrors
        super().__init__(**fields)
        self._check()

    def _check(self) -> None:
        """Ask for what a search will need.

        Raises:
            TypeError: if the store cannot search by vector.
            ConfigError: for a mode that the store does not have, an alpha where nothing is mixed, or other arguments
                than it knows.
        """
        check_alpha(self.alpha)
        both = parts_of(self.store)
        in_one = both is None and not keeps_both(self.store)
        if in_one and (self.mode in ("hybrid", "sparse") or (self.mode and self.embedding.parts == "one")):
            raise ConfigError(
                f"mode is {self.mode!r}, but the store keeps one vector a document; build it with "
                "from_documents(..., hybrid=True), or leave mode out"
            )
        if in_one or self.mode in ("dense", "sparse"):
            check_alpha(self.alpha, "one vector a document" if in_one else repr(self.mode))
        check_search_kwargs(self.search_kwargs, both is not None and self.mode != "dense")
        if self._in_two_parts:
            return
        own = own_class(self.store)
        if own.similarity_search_by_vector is VectorStore.similarity_search_by_vector:
            raise TypeError(
                f"{own.__name__} cannot search by vector, which CDERetriever needs; use "
                "guard(store, embedding).as_retriever(), which lets the store embed the query and checks with what"
            )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        count = self.k if k is None else k
        if self._in_two_parts:
            return self._search_in_parts(query, count)
        embedding = self._dense_embedding()
        vector = embedding.embed_query(query)
        found = self.store.similarity_search_by_vector(vector, k=count, **self.search_kwargs)
        return cast(list[Document], check_stamps(found, embedding.stamp))

    @property
    def _in_two_parts(self) -> bool:
        return self.mode != "dense" and (parts_of(self.store) is not None or keeps_both(self.store))

    def _dense_embedding(self) -> CDEEmbeddings:
        """Return what embeds queries for the store's vectors."""
        both = parts_of(self.store)
        if both is not None:
            return both.embedding_for(self.embedding)
        return self.embedding.dense_part() if keeps_both(self.store) else self.embedding

    def _search_in_parts(self, query: str, count: int) -> list[Document]:
        embedding, both, mode = self._dense_embedding(), parts_of(self.store), self.mode or "hybrid"
        if both is None:
            return search_both(self.store, embedding, query, count, mode, self.search_kwargs, self.alpha)
        found = both.search(self.store, query, count, mode, self.search_kwargs.get("filter"), self.alpha)
        return [document for document, _ in found]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        count = self.k if k is None else k
        if self._in_two_parts:
            return await run_in_executor(None, self._search_in_parts, query, count)
        embedding = self._dense_embedding()
        vector = await embedding.aembed_query(query)
        found = await self.store.asimilarity_search_by_vector(vector, k=count, **self.search_kwargs)
        return cast(list[Document], check_stamps(found, embedding.stamp))
