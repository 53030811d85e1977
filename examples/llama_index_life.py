"""Live with a LlamaIndex index: build, persist, open, insert, refresh, delete; old vectors never change.

python -m examples.llama_index_life
"""

from llama_index.core import Document

from cde_retriever.llama_index import CDEVectorStoreIndex
from examples.small_corpus import few_docstrings

QUESTION = "how do I run a function at a given time?"
NEW = "Call later(seconds, function) to run a function at a given time."


def main() -> list[list[str]]:
    """Return the names found after building, inserting, refreshing and deleting."""
    documents = [Document(text=text, id_=name) for name, text in few_docstrings("sched", "calendar", "csv").items()]
    CDEVectorStoreIndex.from_documents(documents).persist("index")  # the context goes with it

    index = CDEVectorStoreIndex.from_storage("index")  # in another process
    found = [names(index)]
    index.insert(Document(text=NEW, id_="notes"))
    found.append(names(index))
    index.refresh_ref_docs([Document(text="Nothing of interest any more.", id_="notes")])
    found.append(names(index))
    index.delete_ref_doc("notes", delete_from_docstore=True)
    index.persist("index")  # replaced as a whole: a killed process leaves the old index or the new one

    found.append(names(CDEVectorStoreIndex.from_storage("index")))
    for line in found:
        print(line)
    return found


def names(index: CDEVectorStoreIndex) -> list[str]:
    """Return the names of the three best documents."""
    nodes = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
    return [str(node.node.ref_doc_id) for node in nodes]


if __name__ == "__main__":
    main()
