"""What keeps the stores of one test from those of the next."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def fresh_chroma() -> Iterator[None]:
    """Forget Chroma's clients: it keeps one in-memory system a process, and refuses one with other settings."""
    yield
    if "chromadb" in sys.modules:
        from chromadb.api.shared_system_client import SharedSystemClient

        SharedSystemClient.clear_system_cache()
