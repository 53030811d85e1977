"""Give an encoder of your own a context: any encoder of sentence-transformers, by folder or Hub id.

python -m examples.own_encoder BAAI/bge-small-en-v1.5
"""

import sys

import numpy as np

from cde_retriever import ContextualEncoder
from examples.small_corpus import few_docstrings

QUESTION = "is this year a leap year?"


def main(model: str) -> dict[str, str]:
    """Return the name of the document that fits best, without a context and under the corpus's own."""
    documents = few_docstrings()
    names, texts = list(documents), list(documents.values())
    encoder = ContextualEncoder.from_pretrained(model)
    found = {}
    for how, context in (("no context", encoder.null_context()), ("own context", encoder.fit_context(texts))):
        encoder.set_context(context)
        scores = encoder.encode_documents(texts) @ encoder.encode_queries([QUESTION])[0]
        found[how] = names[int(np.argmax(scores))]
    print(model, encoder.identity.sha256[:12], encoder.dimension, found)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
