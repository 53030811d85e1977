"""Use what an extra is for, once, in an environment where the wheel was installed with it: try_package.py EXTRA FOLDER.

Plain asserts, because the environment has nothing but the extra. FOLDER is shared by all environments of a run: `onnx`
leaves an export there, with a context and a vector, for the servers without PyTorch.
"""

import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from cde_retriever import Context, ContextualEncoder

TEXTS = [
    "Open Settings, choose Account and press Reset to reset a password.",
    "Invoices are mailed monthly and lie under Billing.",
    "A workspace holds a thousand documents and ten members.",
    "The server sends a mail when a task is due.",
    "Choose Export in the menu of a table to get all its rows.",
    "The interface speaks twelve languages.",
]
QUESTION = "forgotten password"


def main() -> None:
    """Run the function of the name given, in a folder of its own that holds documents."""
    extra, shared = sys.argv[1].replace("-", "_"), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("docs").mkdir()
        for number, text in enumerate(TEXTS):
            Path(f"docs/{number}.md").write_text(f"# Page {number}\n\n{text}\n")
        Path("rows.jsonl").write_text(
            "".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS))
        )
        globals()[f"try_{extra}"](shared)


def command(*arguments: str) -> None:
    """Run a command of the package's beside this interpreter."""
    name, *others = arguments
    subprocess.run([str(Path(sys.executable).parent / name), *others], check=True)


def best(model: str | Path | None, context: Path | None = None) -> int:
    """Return the number of the text that a model finds for the question."""
    encoder = ContextualEncoder.from_pretrained(model)
    if context:
        encoder.set_context(Context.load(context))
    else:
        encoder.fit_context(TEXTS)
    return int(np.argmax(encoder.encode_documents(TEXTS) @ encoder.encode_queries([QUESTION])[0]))


def try_bare(_: Path) -> None:
    """Embed, save and load a context, rank by two parts, call the commands' help."""
    from cde_retriever.search.hybrid import search

    encoder = ContextualEncoder.from_pretrained()
    encoder.fit_context(TEXTS).save("context.safetensors")
    assert best(None, Path("context.safetensors")) == 0
    documents, query = encoder.encode_documents(TEXTS, parts="both"), encoder.encode_queries([QUESTION], parts="both")
    assert search(query, documents, 1).positions[0][0] == 0
    for arguments in (["cde", "--help"], ["cde", "embed", "--help"], ["cde-train", "--help"]):
        command(*arguments)


def try_llama_index(_: Path) -> None:
    """Build, persist, open and grow an index."""
    from llama_index.core import Document

    from cde_retriever.llama_index import CDEVectorStoreIndex

    CDEVectorStoreIndex.from_documents([Document(text=text) for text in TEXTS]).persist("index")
    index = CDEVectorStoreIndex.from_storage("index")
    index.insert(Document(text="Passwords are changed on the account page."))
    found = index.as_retriever(similarity_top_k=2).retrieve(QUESTION)
    assert all("assword" in node.text for node in found), found


def try_langchain(_: Path) -> None:
    """Build, save and open a store."""
    from langchain_core.documents import Document
    from langchain_core.vectorstores import InMemoryVectorStore

    from cde_retriever import langchain as cde

    store = cde.from_documents(InMemoryVectorStore, [Document(text) for text in TEXTS])
    cde.save_local(store, "store")
    store = cde.open(lambda e: InMemoryVectorStore.load("store/store.json", e), "store")
    assert "password" in store.similarity_search(QUESTION, k=1)[0].page_content


def try_chroma(_: Path) -> None:
    """Fill a collection and ask it."""
    import chromadb

    from cde_retriever.chroma import CDEEmbeddingFunction

    function = CDEEmbeddingFunction.fit(TEXTS, "chroma/context")
    collection = chromadb.PersistentClient("chroma").create_collection("docs", embedding_function=function)
    collection.add(ids=[str(n) for n in range(len(TEXTS))], documents=TEXTS)
    assert collection.query(query_texts=[QUESTION], n_results=1)["ids"] == [["0"]]


def try_haystack(_: Path) -> None:
    """Embed documents and a query."""
    from haystack import Document

    from cde_retriever.haystack import CDEDocumentEmbedder, CDETextEmbedder

    embedder = CDEDocumentEmbedder("context")
    embedder.fit([Document(content=text) for text in TEXTS])
    documents = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    query = CDETextEmbedder("context").run(QUESTION)["embedding"]
    assert np.argmax([np.dot(document.embedding, query) for document in documents]) == 0


def try_sentence_transformers(_: Path) -> None:
    """Bind a context to a SentenceTransformer and encode."""
    from cde_retriever import sentence_transformers as cde

    ContextualEncoder.from_pretrained().fit_context(TEXTS).save("context.safetensors")
    model = cde.bind("context.safetensors")
    assert np.argmax(model.encode_document(TEXTS) @ model.encode_query([QUESTION])[0]) == 0


def try_mteb(_: Path) -> None:
    """Import the door to MTEB; its tasks need the network."""
    import cde_retriever.mteb

    assert cde_retriever.mteb.__all__


def try_explore(shared: Path) -> None:
    """Show the help of the page's command, and do what the doctor does."""
    command("cde", "explore", "--help")
    try_doctor(shared)


def try_bulk(_: Path) -> None:
    """Embed a folder of web pages and Markdown, and rows in both parts, and read the vectors."""
    from cde_retriever.bulk.reading import read_parts

    Path("docs/0.md").rename("docs/0.html")
    command("cde", "embed", "docs", "-o", "pages")
    command("cde", "embed", "rows.jsonl", "-o", "vectors", "--parts", "both")
    assert sum(len(part.ids) for folder in ("pages", "vectors") for part in read_parts(folder)) == 2 * len(TEXTS)


def try_ray(_: Path) -> None:
    """Embed rows by workers of Ray."""
    from cde_retriever.bulk.reading import read_parts

    os.environ.update(RAY_worker_niceness="0")  # on a busy machine they would wait for ever
    command("cde", "embed", "rows.jsonl", "-o", "vectors", "--engine", "ray", "--workers", "1")
    assert [name for part in read_parts("vectors") for name in part.ids] == [str(n) for n in range(len(TEXTS))]


def try_doctor(_: Path) -> None:
    """Examine a corpus with judged questions."""
    Path("asked.jsonl").write_text(json.dumps({"text": QUESTION, "relevant": ["0"]}) + "\n")
    command("cde", "doctor", "rows.jsonl", "-o", "checkup", "--queries", "asked.jsonl")
    assert json.loads(Path("checkup/report.json").read_text())


def try_onnx(shared: Path) -> None:
    """Export the bundled model and search with the export; leave it for the servers."""
    command("cde", "export", "-o", str(shared / "export"))
    ContextualEncoder.from_pretrained().fit_context(TEXTS).save(shared / "context.safetensors")
    assert best(shared / "export", shared / "context.safetensors") == 0


def try_openvino(_: Path) -> None:
    """Search with the bundled model under OpenVINO."""
    encoder = ContextualEncoder.from_pretrained(backend="openvino")
    encoder.fit_context(TEXTS)
    assert np.argmax(encoder.encode_documents(TEXTS) @ encoder.encode_queries([QUESTION])[0]) == 0


def try_serve(_: Path) -> None:
    """Serve the null context and ask for a vector."""
    served = [str(Path(sys.executable).parent / "cde"), "serve", "--null", "--port", "0"]
    with subprocess.Popen(served, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = json.loads(server.stdout.readline() if server.stdout else "")
            body = json.dumps({"model": said["models"][0], "input": QUESTION, "input_type": "query"}).encode()
            asked = urllib.request.Request(said["url"] + "/v1/embeddings", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked) as answer:
                assert len(json.load(answer)["data"][0]["embedding"]) == 768
        finally:
            server.terminate()


def try_serving(shared: Path) -> None:
    """Search with an export where PyTorch is not installed."""
    assert importlib.util.find_spec("torch") is None
    assert best(shared / "export", shared / "context.safetensors") == 0


def try_train(_: Path) -> None:
    """Import every module of the trainer, validate a preset, measure on a judged set."""
    import cde_train

    for module in pkgutil.walk_packages(cde_train.__path__, "cde_train."):
        importlib.import_module(module.name)
    command("cde-train", "validate", "default")
    Path("set/qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": str(n), "title": "", "text": text}) + "\n" for n, text in enumerate(TEXTS)]
    Path("set/corpus.jsonl").write_text("".join(rows))
    Path("set/queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUESTION}) + "\n")
    Path("set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    command("cde-train", "evaluate", "set", "-o", "results.json")
    assert json.loads(Path("results.json").read_text())


if __name__ == "__main__":
    main()
