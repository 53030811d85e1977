"""Search documents under a context of themselves, keep the context, and open it again.

python -m examples.quickstart
"""

import numpy as np

from cde_retriever import Context, ContextualEncoder
from examples.small_corpus import few_docstrings

QUESTION = "take all members out of an archive"


def main() -> list[str]:
    """Return the names of the three documents that fit the question best."""
    documents = few_docstrings()
    names, texts = list(documents), list(documents.values())

    encoder = ContextualEncoder.from_pretrained()  # the bundled model, or a folder or Hub id
    encoder.fit_context(texts).save("context.safetensors")
    vectors = encoder.encode_documents(texts)  # (n, 768) float32, unit length
    np.save("vectors.npy", vectors)

    later = ContextualEncoder.from_pretrained()  # in another process
    later.set_context(Context.load("context.safetensors"))  # the context of the vectors, and no other
    scores = np.load("vectors.npy") @ later.encode_queries([QUESTION])[0]
    best = [names[row] for row in np.argsort(-scores)[:3]]
    print(QUESTION, "->", best)
    return best


if __name__ == "__main__":
    main()
