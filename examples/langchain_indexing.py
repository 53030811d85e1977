"""Keep a store in step with changing documents by LangChain's indexing API: only what changed is embedded.

python -m examples.langchain_indexing
"""

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.indexing import IndexingResult, InMemoryRecordManager, index

from cde_retriever import langchain as cde
from examples.small_corpus import few_docstrings


def main() -> list[IndexingResult]:
    """Return what three nights added, updated, skipped and deleted."""
    texts = few_docstrings("heapq", "sched")
    documents = [Document(text, metadata={"source": name}) for name, text in texts.items()]

    embedding = cde.CDEEmbeddings()
    embedding.fit(documents)  # on the whole corpus, because the API shows an embedding 100 documents at a time
    embedding.save_context("nightly-context")
    store = cde.guard(Chroma("nightly", embedding, persist_directory="nightly"), embedding)
    records = InMemoryRecordManager(embedding.record_namespace("nightly"))  # SQLRecordManager keeps them on disk

    changed = [Document("A heap is a tree in a list.", metadata={"source": "heapq"}), *documents[1:-1]]
    nights = []
    for night in (documents, documents, changed):
        nights.append(index(night, records, store, cleanup="full", source_id_key="source", key_encoder="sha256"))
        print(nights[-1])
    return nights


if __name__ == "__main__":
    main()
