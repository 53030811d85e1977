"""From nothing to the first vector, in a process of its own; imports what the side needs and no more.

    python -m benchmarks.performance.first_query ours SETTINGS CONTEXT    SETTINGS: JSON for `from_pretrained`
    python -m benchmarks.performance.first_query sentence-transformers FOLDER

Prints a line when the vector is there; `startup.py` stops its clock at that line.
"""

import json
import sys

QUERY = "how do I reset my password when I cannot read my mail?"


def ours(settings: str, context: str) -> int:
    """Load a checkpoint, open a saved context, embed a query; return the vector's width."""
    from cde_retriever import Context, ContextualEncoder

    encoder = ContextualEncoder.from_pretrained(**json.loads(settings))
    encoder.set_context(Context.load(context))
    return len(encoder.encode_queries([QUERY])[0])


def theirs(folder: str) -> int:
    """Load a sentence-transformers model and embed a query; return the vector's width."""
    from sentence_transformers import SentenceTransformer

    return len(SentenceTransformer(folder, device="cpu").encode([QUERY])[0])


if __name__ == "__main__":
    side, *arguments = sys.argv[1:]
    print(ours(*arguments) if side == "ours" else theirs(*arguments), flush=True)
