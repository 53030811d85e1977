"""Serve a context over HTTP by `cde serve`, and ask it by OpenAI's client.

pip install "cde-retriever[serve]" openai; python -m examples.serve_over_http
"""

import json
import subprocess
import sys

import numpy as np
from openai import OpenAI

from cde_retriever import ContextualEncoder
from examples.small_corpus import few_docstrings

QUESTION = "put a new event into the queue"


def main() -> str:
    """Return the name of the document whose vector lies nearest to the question's, both from the server."""
    documents = few_docstrings("sched")
    ContextualEncoder.from_pretrained().fit_context(list(documents.values())).save("context.safetensors")

    command = [sys.executable, "-m", "cde_retriever.cli.main", "serve", "context.safetensors", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = json.loads(server.stdout.readline() if server.stdout else "")  # once callers may connect
            client = OpenAI(base_url=f"{said['url']}/v1", api_key="none on this machine")
            texts, question = (
                client.embeddings.create(model=said["models"][0], input=asked, extra_body={"input_type": kind})
                for asked, kind in ((list(documents.values()), "document"), (QUESTION, "query"))
            )
        finally:
            server.terminate()
    vectors = np.array([row.embedding for row in texts.data])
    best = list(documents)[int(np.argmax(vectors @ np.array(question.data[0].embedding)))]
    print(QUESTION, "->", best)
    return best


if __name__ == "__main__":
    main()
