"""Move a LlamaIndex index from HuggingFaceEmbedding: its nodes are embedded again, under a context of them all.

pip install llama-index-embeddings-huggingface; python -m examples.from_hugging_face
"""

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding

from cde_retriever.llama_index import CDEVectorStoreIndex
from examples.small_corpus import few_docstrings

QUESTION = "how do I cancel an event?"


def main(old_embedding: BaseEmbedding) -> list[str]:
    """Build an index as it was, move it, and return the names that the new one finds."""
    documents = [Document(text=text, id_=name) for name, text in few_docstrings("sched", "heapq").items()]
    VectorStoreIndex.from_documents(documents, embed_model=old_embedding).storage_context.persist("old")

    # Settings.embed_model goes, since an embedding belongs to one corpus; so do query_instruction and normalize, since
    # the model knows its prompts and gives unit vectors.
    nodes = list(StorageContext.from_defaults(persist_dir="old").docstore.docs.values())
    CDEVectorStoreIndex(nodes).persist("new")

    retriever = CDEVectorStoreIndex.from_storage("new").as_retriever(similarity_top_k=2)
    found = [str(node.node.ref_doc_id) for node in retriever.retrieve(QUESTION)]
    print(QUESTION, "->", found)
    return found


if __name__ == "__main__":
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    main(HuggingFaceEmbedding("sentence-transformers/all-MiniLM-L6-v2"))
