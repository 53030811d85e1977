"""What somebody sees who asks the public doors what they hold."""

import importlib

import pytest

NAMES = {
    "cde_retriever.langchain": [
        "CDEEmbeddings",
        "CDERetriever",
        "CDESparseEmbeddings",
        "from_documents",
        "guard",
        "open",
        "save_local",
        "stamp",
    ],
    "cde_retriever.llama_index": [
        "CDEContextGuard",
        "CDEEmbedding",
        "CDERetriever",
        "CDEVectorStoreIndex",
        "sparse_functions",
    ],
}


@pytest.mark.parametrize("door", NAMES)
def test_dir_lists_the_public_names_alone(door):
    module = importlib.import_module(door)
    assert dir(module) == NAMES[door]
    assert all(hasattr(module, name) for name in NAMES[door])
