"""Small corpora, embeddings and stores for the tests of the guard on LangChain stores."""

import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document

from cde_retriever.langchain import CDEEmbeddings
from tests.tiny import documents as made_up

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_community.vectorstores import FAISS

QUERY = "baron kolak mi"
Fitted = Callable[..., CDEEmbeddings]


def corpus(seed: int, count: int = 12) -> list[Document]:
    return [Document(text, metadata={"source": i}) for i, text in enumerate(made_up(count, seed))]


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def fitted_on(checkpoint: Path, seed: int, **settings: Any) -> CDEEmbeddings:
    embedding = CDEEmbeddings(model_name=checkpoint, **settings)
    embedding.fit(corpus(seed))
    return embedding


def load_faiss(folder: Path, embedding: Any) -> FAISS:
    return FAISS.load_local(str(folder), embedding, allow_dangerous_deserialization=True)


def write_into_faiss(store: FAISS, documents: list[Document], embedding: CDEEmbeddings) -> None:
    """Add documents as another program would, past every method of the store."""
    start = len(store.index_to_docstore_id)
    store.index.add(np.array(embedding.embed_documents(texts_of(documents)), np.float32))
    keys = {start + i: uuid.uuid4().hex for i in range(len(documents))}
    store.docstore._dict.update(zip(keys.values(), documents, strict=True))
    store.index_to_docstore_id.update(keys)
