"""Keep what the quality benchmark measured, one JSON row a ranking, with the commands and versions behind it."""

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.head_ranking import HYBRID_MODES
from benchmarks.mixtures import MIXTURES
from cde_retriever.files.replacing import write_atomically
from cde_train.evaluation.results import CONTEXT_MODES, PLAIN_MODES

FORMAT_VERSION = 1
WITHOUT_CONTEXT = (*PLAIN_MODES, *MIXTURES)
MODES = ("bm25", *WITHOUT_CONTEXT, *CONTEXT_MODES, *HYBRID_MODES)
KEY = ("set", "mode", "model", "dtype", "seed", "size", "data")


class Results:
    """The results file; other processes may write to it, so it is read again before each write."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.command = "python -m benchmarks.quality " + shlex.join(sys.argv[1:])

    def read(self) -> dict[str, Any]:
        """Return the file's content, empty if there is none."""
        if not self.file.exists():
            return {"format_version": FORMAT_VERSION, "commands": [], "environment": {}, "results": []}
        content: dict[str, Any] = json.loads(self.file.read_text())
        if content.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{self.file} has format {content.get('format_version')!r}, expected {FORMAT_VERSION}")
        return content

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a result with this key is there."""
        return any(all(result.get(name) == key[name] for name in KEY) for result in self.read()["results"])

    def add(self, result: dict[str, Any]) -> None:
        """Write one more result; a killed process leaves the old file or the new one."""
        content = self.read()
        if self.command not in content["commands"]:
            content["commands"].append(self.command)
        content["environment"] = environment()
        content["results"].append(result)
        content["results"].sort(
            key=lambda r: (r["set"], MODES.index(r["mode"]), str(r["model"]), str(r["seed"]), str(r.get("size")))
        )
        rows = ",\n".join("  " + json.dumps(row) for row in content.pop("results"))
        head = json.dumps(content, indent=1).removesuffix("\n}")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, f'{head},\n "results": [\n{rows}\n ]\n}}\n'.encode())


def environment() -> dict[str, Any]:
    """Return the versions that decide figures, and the machine."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "bm25s", "PyStemmer", "ir-measures")
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in packages},
    }
