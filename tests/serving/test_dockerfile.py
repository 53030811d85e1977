"""The Dockerfile is linted by hadolint; no test builds it. What its image runs needs no PyTorch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import loaded_by

ROOT = Path(__file__).parent.parent.parent
LINTER = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(LINTER is None, reason="hadolint has no build for this machine")
def test_the_dockerfile_has_no_faults():
    done = subprocess.run([LINTER, "--no-color", "examples/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_server_is_there_without_pytorch():
    served = ("app", "server", "contexts", "gate", "metrics", "requests")
    loaded = loaded_by("import " + ", ".join(f"cde_retriever.serving.{name}" for name in served))
    assert "fastapi" in loaded
    assert loaded & {"torch", "transformers", "huggingface_hub", "plotly", "llama_index"} == set()
