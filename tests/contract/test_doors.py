"""What somebody sees who asks the public doors what they hold."""

import importlib
import subprocess
import sys

import pytest

NAMES = {
    "cde_retriever.chroma": ["CDEEmbeddingFunction"],
    "cde_retriever.haystack": ["CDEContextGuard", "CDEDocumentEmbedder", "CDETextEmbedder"],
    "cde_retriever.mteb": ["CDEModel", "evaluate", "tasks_named"],
    "cde_retriever.sentence_transformers": ["CDEModule", "bind", "load", "save"],
    "cde_retriever.langchain": [
        "CDEEmbeddings",
        "CDERetriever",
        "CDERoutedRetriever",
        "CDESparseEmbeddings",
        "collection_in",
        "drift",
        "forget_kind",
        "from_documents",
        "from_documents_by_kind",
        "guard",
        "open",
        "open_routed",
        "save_local",
        "save_routed",
        "stamp",
    ],
    "cde_retriever.llama_index": [
        "CDEContextGuard",
        "CDEEmbedding",
        "CDERetriever",
        "CDERoutedIndex",
        "CDERoutedRetriever",
        "CDEVectorStoreIndex",
        "collection_in",
        "sparse_functions",
    ],
}


@pytest.mark.parametrize("door", NAMES)
def test_dir_lists_the_public_names_alone(door):
    module = importlib.import_module(door)
    assert dir(module) == NAMES[door]
    assert all(hasattr(module, name) for name in NAMES[door])


MISSING = {
    "chroma": "chromadb",
    "haystack": "haystack",
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "mteb": "mteb",
    "sentence_transformers": "sentence_transformers",
}


@pytest.mark.parametrize("door", MISSING)
def test_a_door_says_what_to_install(door):
    """In a process of its own: modules that are imported twice are not those that other tests hold."""
    code = f"import sys; sys.modules[{MISSING[door]!r}] = None; import cde_retriever.{door}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'pip install "cde-retriever[{door.replace("_", "-")}]"' in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("ImportError: ")
