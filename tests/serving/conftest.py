"""A server of a tiny model with a corpus head, as `cde serve` runs it, and the encoder to compare it with."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from tests.tiny import HEADED, documents, tiny_checkpoint

ROOT = Path(__file__).parent.parent.parent


def serving(*arguments, **environment):
    """Run `cde serve`; see `running`."""
    return running("serve", "--port", "0", *arguments, **environment)


@contextmanager
def running(*arguments, **environment):
    """Run a command of `cde`, and yield what it says when callers may connect, with its process; stop it at the end."""
    command = [sys.executable, "-m", "cde_retriever.cli.main", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line) | {"process": process}
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture(scope="session")
def headed_folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("served") / "tiny", **HEADED)


@pytest.fixture(scope="session")
def corpora():
    """Two corpora."""
    return documents(30, seed=1), documents(30, seed=2)


@pytest.fixture(scope="session")
def encoders(headed_folder, corpora):
    """The model under a context of each corpus."""
    encoder = ContextualEncoder.from_pretrained(headed_folder, device="cpu")
    forks = [encoder.fork() for _ in corpora]
    for fork, corpus in zip(forks, corpora, strict=True):
        fork.fit_context(corpus)
    return forks
