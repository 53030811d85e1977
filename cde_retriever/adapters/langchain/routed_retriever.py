"""Search several stores of one model, each under a context of its own, as one: `CDERoutedRetriever`.

    stores = from_documents_by_kind(FAISS, documents, "tenant", CDEEmbeddings())
    CDERoutedRetriever(stores=stores, contexts=3, k=4).invoke("a question")

Of each kind of document there is a guarded store in two parts. A query is asked of those whose contexts are nearest
(`cde_retriever.encoder.routes`); the model runs once for all, and their scores are compared as they are.
"""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from pydantic import Field, PrivateAttr

from cde_retriever.adapters.langchain.store_parts import StoreParts, check_search_kwargs, parts_of
from cde_retriever.encoder.one_pass import one_pass
from cde_retriever.encoder.routes import Routes
from cde_retriever.errors import ConfigError


class CDERoutedRetriever(BaseRetriever):
    """Search the stores whose contexts are nearest to a query.

    Attributes:
        stores: A guarded store in two parts by the name of its kind, all of one model.
        contexts: How many of them to ask.
        k: How many documents to return, of all stores together.
        search_kwargs: ``filter``, as for `CDERetriever`.
    """

    stores: dict[str, VectorStore]
    contexts: int = Field(default=3, ge=1)
    k: int = Field(default=4, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)

    _parts: dict[str, StoreParts] = PrivateAttr()
    _routes: Routes = PrivateAttr()

    def __init__(self, **fields: Any) -> None:  # after pydantic, which wraps errors that are ValueErrors
        super().__init__(**fields)
        found = {name: parts_of(store) for name, store in self.stores.items()}
        lacking = sorted(name for name, parts in found.items() if parts is None)
        check_search_kwargs(self.search_kwargs, in_parts=True)
        if lacking:
            raise ConfigError(
                f"stores {lacking} keep one vector a document, whose scores under several contexts cannot be compared; "
                "build them with from_documents(..., hybrid=True)"
            )
        self._parts = {name: parts for name, parts in found.items() if parts is not None}
        self._routes = Routes({name: parts.embedding.context for name, parts in self._parts.items()})

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        return self._search(query)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        return await run_in_executor(None, self._search, query)

    def _search(self, query: str) -> list[Document]:
        encoder = next(iter(self._parts.values())).embedding.encoder
        asked = self.search_kwargs.get("filter")

        def search(name: str) -> list[tuple[Document, float]]:
            return self._parts[name].search(self.stores[name], query, self.k, "hybrid", asked)

        with one_pass():
            found = self._routes.ask(encoder.encode_queries([query], parts="dense"), self.contexts, search)
        return [document for document, _ in sorted(found, key=lambda pair: -pair[1])[: self.k]]
