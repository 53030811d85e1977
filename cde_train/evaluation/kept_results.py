"""Keep measured rankings in a file, so that an interrupted comparison continues where it stopped."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cde_retriever.errors import ConfigError
from cde_retriever.files.records import parse_json
from cde_retriever.files.replacing import write_atomically
from cde_train.evaluation.results import Result

FORMAT_VERSION = 1


class KeptResults:
    """Results in a JSON file; each is written at once, and a killed process leaves the old file or the new one.

    Args:
        file: The file; None keeps nothing.
        asked: What the results depend on (hashes of checkpoints and sets, dtype); a file that was asked something else
            is begun anew.
        say: Told of each result as it comes, and of what was there already.

    Raises:
        ConfigError: if the file is there and holds no results.
    """

    def __init__(
        self, file: str | os.PathLike[str] | None, asked: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self.file = None if file is None else Path(file)
        self.asked = {"format_version": FORMAT_VERSION, **asked}
        self.say = say
        self.results: dict[tuple[str, str], Result] = {}
        found = self._read()
        if found.get("asked") == self.asked:
            for row in found["results"]:
                result = Result(**{**row, "ndcg_per_query": tuple(row["ndcg_per_query"])})
                self.results[result.set, result.mode] = result
            say(f"{len(self.results)} results are in {self.file} already")
        elif found:
            say(f"{self.file} holds results of something else and is begun anew")

    def get(self, name: str, mode: str) -> Result | None:
        """Return what is known of a set's ranking."""
        return self.results.get((name, mode))

    def add(self, result: Result) -> None:
        """Keep a result."""
        self.results[result.set, result.mode] = result
        self.say(f"{result.set} {result.mode}: nDCG@10 {100 * result.ndcg_at_10:.2f}")
        self.write({"results": [asdict(row) for row in self.results.values()]})

    def write(self, content: Mapping[str, Any]) -> None:
        """Write a content, and what was asked, to the file."""
        if self.file is not None:
            write_atomically(self.file, (json.dumps({"asked": self.asked, **content}, indent=1) + "\n").encode())

    def _read(self) -> dict[str, Any]:
        """Return the file's content; nothing if there is no file."""
        if self.file is None or not self.file.exists():
            return {}
        try:
            content = parse_json(self.file.read_bytes())
        except ValueError:
            content = None
        if isinstance(content, dict) and isinstance(content.get("asked"), dict) and "results" in content:
            return content
        raise ConfigError(f"{self.file} holds no results of an evaluation; give another file, or delete this one first")
