"""What somebody sees who asks the public doors what they hold."""

import importlib
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
        "from_documents",
        "from_documents_by_kind",
        "guard",
        "open",
        "save_local",
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
def test_a_door_says_what_to_install(door, monkeypatch):
    extra = door.replace("_", "-")
    ours = (f"cde_retriever.{door}", f"cde_retriever.adapters.{door}")
    for name in [name for name in sys.modules if name.startswith(ours)]:
        monkeypatch.delitem(sys.modules, name)
    theirs = {name for name in sys.modules if name.split(".")[0] == MISSING[door]}
    for name in theirs | {MISSING[door]}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'pip install "cde-retriever\[{extra}\]"'):
        importlib.import_module(f"cde_retriever.{door}")
