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
from cde_retriever.adapters.langchain.store_parts import StoreParts, check_search_kwargs, parts_of
from cde_retriever.errors import ConfigError


class CDERetriever(BaseRetriever):
    """Search any store by a query embedded here, and check the context of every document it returns.

    Attributes:
        store: The store, guarded or not.
        embedding: Embeds the queries.
        mode: ``"hybrid"`` ranks by dense and sparse part together, ``"sparse"`` by exact words, ``"dense"`` by the
            store's vectors. None: hybrid if the store keeps its documents in two parts, else by its vectors.
        k: How many documents to return.
        search_kwargs: Further arguments of the store's search, such as ``filter``; ``"hybrid"`` and ``"sparse"`` know
            ``filter`` alone, a mapping of metadata to values or a function of a `Document`.
    """

    store: VectorStore
    embedding: CDEEmbeddings
    mode: Literal["hybrid", "dense", "sparse"] | None = None
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, **fields: Any) -> None:  # after pydantic, which wraps errors that are ValueErrors
        super().__init__(**fields)
        self._check()

    def _check(self) -> None:
        """Ask for what a search will need.

        Raises:
            TypeError: if the store cannot search by vector.
            ConfigError: for a mode that the store does not have, or other arguments than it knows.
        """
        both = parts_of(self.store)
        if both is None and (self.mode in ("hybrid", "sparse") or (self.mode and self.embedding.parts == "one")):
            raise ConfigError(
                f"mode is {self.mode!r}, but the store keeps one vector a document; build it with "
                "from_documents(..., hybrid=True), or leave mode out"
            )
        in_parts = both is not None and self.mode != "dense"
        check_search_kwargs(self.search_kwargs, in_parts)
        if in_parts:
            return
        own = getattr(self.store, "_store_class", type(self.store))
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
        both = parts_of(self.store)
        embedding = self.embedding if both is None else both.embedding_for(self.embedding)
        if both is not None and self.mode != "dense":
            return self._in_parts(both, query, k)
        vector = embedding.embed_query(query)
        found = self.store.similarity_search_by_vector(vector, k=self.k if k is None else k, **self.search_kwargs)
        return cast(list[Document], check_stamps(found, embedding.stamp))

    def _in_parts(self, both: StoreParts, query: str, k: int | None) -> list[Document]:
        count, mode = self.k if k is None else k, self.mode or "hybrid"
        return both.search(self.store, query, count, mode, self.search_kwargs.get("filter"))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        both = parts_of(self.store)
        embedding = self.embedding if both is None else both.embedding_for(self.embedding)
        if both is not None and self.mode != "dense":
            return await run_in_executor(None, self._in_parts, both, query, k)
        vector = await embedding.aembed_query(query)
        found = await self.store.asimilarity_search_by_vector(
            vector, k=self.k if k is None else k, **self.search_kwargs
        )
        return cast(list[Document], check_stamps(found, embedding.stamp))
