"""Figures in one JSON file, a section at a time: kept while checkpoint and settings are the same."""

import json
from pathlib import Path
from typing import Any

from cde_retriever.files.replacing import write_atomically

Section = dict[str, Any]


class Sections:
    """The sections of a file; one written replaces the file whole, so that a killed run loses nothing it had.

    Args:
        file: The JSON file; it need not be there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Section] = json.loads(file.read_text())["sections"] if file.is_file() else {}

    def holds(self, name: str, sha256: str, settings: dict[str, Any]) -> bool:
        """Tell whether a section was measured of this checkpoint with these settings."""
        section = self.found.get(name)
        return section is not None and (section["checkpoint"]["sha256"], section["settings"]) == (sha256, settings)

    def put(self, name: str, section: Section) -> None:
        """Write a section; those of other checkpoints go, because a file tells of one."""
        sha256 = section["checkpoint"]["sha256"]
        self.found = {n: s for n, s in self.found.items() if s["checkpoint"]["sha256"] == sha256} | {name: section}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, json.dumps({"sections": self.found}, indent=1).encode() + b"\n")


def pending(sections: Sections, wanted: dict[str, dict[str, Any]], sha256: str, only: list[str] | None) -> list[str]:
    """Return which sections to measure, in order.

    Args:
        sections: What is there.
        wanted: Every section's name to its settings.
        sha256: The checkpoint's.
        only: Those to measure whether there or not; None for all that are not there.
    """
    if only is not None:
        return [name for name in wanted if name in only]
    return [name for name, settings in wanted.items() if not sections.holds(name, sha256, settings)]
