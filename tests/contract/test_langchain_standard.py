"""The standard suites of langchain-tests, unedited, on a tiny checkpoint with a bound context."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from cde_retriever.langchain import CDEEmbeddings, CDERetriever, from_documents
from tests.tiny import documents


class BoundEmbeddings:
    """Embeddings with a context, as the suites want them: ready after construction."""

    @pytest.fixture(autouse=True)
    def bound(self, checkpoint: Path, tmp_path: Path) -> None:
        embedding = CDEEmbeddings(model_name=checkpoint)
        embedding.fit(documents(40))
        self.parameters = {"model_name": checkpoint, "context": embedding.save_context(tmp_path)}

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return CDEEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return self.parameters


class TestCDEEmbeddingsUnit(BoundEmbeddings, EmbeddingsUnitTests):
    pass


class TestCDEEmbeddingsIntegration(BoundEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestCDERetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def store(self, checkpoint: Path) -> None:
        self.embedding = CDEEmbeddings(model_name=checkpoint)
        self.built = from_documents(InMemoryVectorStore, map(Document, documents(10)), self.embedding)

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return CDERetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.built, "embedding": self.embedding}

    @property
    def retriever_query_example(self) -> str:
        return "baron kolak"
