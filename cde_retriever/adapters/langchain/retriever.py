"""`CDERetriever`: search a store by a query embedded here, and check what made the documents it returns."""

from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import Field

from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.langchain.embeddings import CDEEmbeddings


class CDERetriever(BaseRetriever):
    """Search any store by a query embedded here, and check the context of every document it returns.

    Attributes:
        store: The store, guarded or not.
        embedding: Embeds the queries.
        k: How many documents to return.
        search_kwargs: Further arguments of the store's search, such as ``filter``.
    """

    store: VectorStore
    embedding: CDEEmbeddings
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    def model_post_init(self, _: Any, /) -> None:
        """Ask for what a search will need.

        Raises:
            TypeError: if the store cannot search by vector.
        """
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
        vector = self.embedding.embed_query(query)
        found = self.store.similarity_search_by_vector(vector, k=self.k if k is None else k, **self.search_kwargs)
        return cast(list[Document], check_stamps(found, self.embedding.stamp))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        k: int | None = None,
    ) -> list[Document]:
        vector = await self.embedding.aembed_query(query)
        found = await self.store.asimilarity_search_by_vector(
            vector, k=self.k if k is None else k, **self.search_kwargs
        )
        return cast(list[Document], check_stamps(found, self.embedding.stamp))
