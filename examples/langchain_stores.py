"""Keep the same documents in LangChain's FAISS, Chroma and Qdrant, each opened again with its context.

python -m examples.langchain_stores
"""

from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore

from cde_retriever import langchain as cde
from examples.small_corpus import few_docstrings

QUESTION = "how do I remove an event from the queue?"


def main() -> dict[str, str]:
    """Return the name of the best document in each store."""
    texts = few_docstrings("csv", "sched", "heapq")
    documents = [Document(text, metadata={"name": name}) for name, text in texts.items()]

    cde.save_local(cde.from_documents(FAISS, documents), "faiss")
    faiss = cde.open(lambda e: FAISS.load_local("faiss", e, allow_dangerous_deserialization=True), "faiss")

    cde.from_documents(
        Chroma,
        documents,
        context_dir="chroma-context",
        collection_name="modules",
        persist_directory="chroma",
        collection_metadata={"hnsw:space": "cosine"},
    )
    chroma = cde.open(lambda e: Chroma("modules", e, persist_directory="chroma"), "chroma-context")

    made = cde.from_documents(
        QdrantVectorStore, documents, context_dir="qdrant-context", collection_name="modules", path="qdrant"
    )
    made.client.close()  # a folder belongs to one process; with the address of a server this line goes
    qdrant = cde.open(
        lambda e: QdrantVectorStore.from_existing_collection("modules", e, path="qdrant"), "qdrant-context"
    )

    stores = {"FAISS": faiss, "Chroma": chroma, "Qdrant": qdrant}
    found = {name: store.similarity_search(QUESTION, k=1)[0].metadata["name"] for name, store in stores.items()}
    qdrant.client.close()
    print(found)
    return found


if __name__ == "__main__":
    main()
