"""Rank by meaning, by exact words, and by both: two parts of a text, made in one pass under one context.

python -m examples.hybrid_search
"""

from cde_retriever import ContextualEncoder
from cde_retriever.search.index_file import open_index, save_index
from cde_retriever.search.parts_index import PartsIndex
from examples.small_corpus import few_docstrings

QUESTIONS = ("how many leap years lie between two years", "nlargest", "is this file a zip archive?")


def main() -> dict[str, dict[str, str]]:
    """Return the best document's name for each question and mode."""
    documents = few_docstrings()
    encoder = ContextualEncoder.from_pretrained()
    context = encoder.fit_context(list(documents.values()))
    index = PartsIndex(context.fingerprint)
    index.add(list(documents), encoder.encode_documents(list(documents.values()), parts="both"))
    save_index(index, "hybrid")

    index = open_index("hybrid", context.fingerprint)  # refuses another context
    found: dict[str, dict[str, str]] = {}
    for question in QUESTIONS:
        query = encoder.encode_queries([question], parts="both")
        found[question] = {mode: index.search(query, 1, mode=mode)[0].id for mode in ("hybrid", "dense", "sparse")}
        print(question, "->", found[question])
    return found


if __name__ == "__main__":
    main()
