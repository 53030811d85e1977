"""What keeps the stores of one test from those of the next."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import tiny_checkpoint


@pytest.fixture(autouse=True)
def fresh_chroma() -> Iterator[None]:
    """Forget Chroma's clients: it keeps one in-memory system a process, and refuses one with other settings."""
    yield
    if "chromadb" in sys.modules:
        from chromadb.api.shared_system_client import SharedSystemClient

        SharedSystemClient.clear_system_cache()


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny checkpoint that gives a query and a document of the same words different vectors."""
    prompts = {"query": "ba: ", "document": "ko: "}
    return tiny_checkpoint(tmp_path_factory.mktemp("prompted") / "tiny", prompts=prompts)
