"""Describe what a run runs on: versions, machine, device, threads, and the commit of this package's checkout if any."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from cde_retriever.backends.pytorch import default_device

PACKAGES = ("cde-retriever", "torch", "transformers", "accelerate", "numpy")
PACKAGE = Path(__file__).parent.parent


def describe_environment() -> dict[str, str]:
    """Return the environment, each part by name."""
    device = default_device()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    found = {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.release()}",
        "device": f"{device}, {name}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "processes": os.environ.get("WORLD_SIZE", "1"),
    }
    commit = checkout_commit(PACKAGE)
    return found if commit is None else {**found, "commit": commit}


def checkout_commit(package: Path) -> str | None:
    """Return the commit of the checkout that a package's folder lies in; None if it is none, or git is missing."""
    if not (package.parent / ".git").exists():  # an installed package may lie inside somebody else's checkout
        return None
    command = ["git", "-C", str(package.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
