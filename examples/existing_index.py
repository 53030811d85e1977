"""Ask a collection that sentence-transformers filled, as it is: documents stay, and queries alone learn the corpus.

python -m examples.existing_index
"""

import sys

import chromadb
from sentence_transformers import SentenceTransformer

from cde_retriever import ContextualEncoder
from examples.small_corpus import few_docstrings

QUESTION = "nlargest"


def main(model: str = "sentence-transformers/all-MiniLM-L6-v2") -> dict[str, str]:
    """Fill a collection without this package, and return what it finds for plain and for fitted queries."""
    texts = few_docstrings("calendar", "heapq", "sched")
    there = SentenceTransformer(model, device="cpu")
    collection = chromadb.PersistentClient("existing").create_collection(
        "docstrings", metadata={"hnsw:space": "cosine"}
    )
    collection.add(ids=list(texts), documents=list(texts.values()), embeddings=there.encode(list(texts.values())))

    encoder = ContextualEncoder.from_pretrained(model, context_for="queries")
    documents = collection.get(include=["documents"])["documents"] or []
    encoder.fit_context(documents).save("queries.safetensors")

    asked = {"the encoder alone": there.encode([QUESTION]), "knows the corpus": encoder.encode_queries([QUESTION])}
    found = {name: collection.query(vectors, n_results=1)["ids"][0][0] for name, vectors in asked.items()}
    for name, best in found.items():
        print(f"{name}: {QUESTION} -> {best}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
