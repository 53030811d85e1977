"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch

from cde_retriever.encoder.encoder import ContextualEncoder
from tests.browser import chromium, opened  # noqa: F401 - fixtures
from tests.tiny import tiny_checkpoint, tiny_encoder

torch.set_num_threads(1)
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny BERT checkpoint."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def exports(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep exports where the tests of this process share them: to write one takes seconds."""
    monkeypatch.setenv("CDE_CACHE", str(tmp_path_factory.getbasetemp() / "exports"))


@pytest.fixture
def encoder() -> ContextualEncoder:
    """A tiny encoder without a context."""
    return tiny_encoder()
