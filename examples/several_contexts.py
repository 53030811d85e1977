"""Serve several corpora by one model: one context each, one set of weights, and an error where two would mix.

python -m examples.several_contexts
"""

from cde_retriever import Context, ContextMismatchError, ContextualEncoder
from cde_retriever.search.index_file import open_index, save_index
from cde_retriever.search.parts_index import PartsIndex
from examples.small_corpus import few_docstrings

QUESTION = "put a new event into the queue"


def main() -> dict[str, str]:
    """Return the best document of each corpus, and what is said to who opens an index under the other's context."""
    encoder = ContextualEncoder.from_pretrained()
    contexts: dict[str, Context] = {}
    for name in ("sched", "calendar"):
        texts = few_docstrings(name)
        contexts[name] = encoder.fit_context(list(texts.values()))
        index = PartsIndex(contexts[name].fingerprint)
        index.add(list(texts), encoder.encode_documents(list(texts.values()), parts="both"))
        save_index(index, name)

    found = {}
    for name, context in contexts.items():
        twin = encoder.fork()  # shares the weights and has a context of its own
        twin.set_context(context)
        query = twin.encode_queries([QUESTION], parts="both")
        found[name] = open_index(name, context.fingerprint).search(query, 1)[0].id
    try:
        open_index("sched", contexts["calendar"].fingerprint)
    except ContextMismatchError as error:
        found["mixed"] = str(error)
    print(found)
    return found


if __name__ == "__main__":
    main()
