"""Open a bench of kept plain vectors as the options of a command say, and write what it measured."""

import argparse
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.quality import Bench
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.replacing import write_atomically
from cde_train.data.retrieval_sets import find_retrieval_sets


def kept_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks.NAME``, with the options of every such command."""
    first_line = (description or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=first_line)
    parser.add_argument("checkpoint", help="folder or name of a model with a corpus head")
    parser.add_argument("sets", type=Path, nargs="+", help="judged sets, or folders of them")
    parser.add_argument("--dtype", default="bfloat16", help="precision of plain vectors (default: bfloat16)")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of plain vectors")
    parser.add_argument("--output", type=Path, default=Path(f"docs/figures/{name}.json"), help="file of measurements")
    return parser


def open_bench(options: argparse.Namespace, only: Iterable[str] | None = None) -> tuple[Bench, list[Path]]:
    """Return the bench of a command's model and sets, and the sets' folders; of those named `only`, if any are."""
    warnings.simplefilter("ignore", TruncationWarning)
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, dtype=options.dtype)
    folders = [found for folder in options.sets for found in find_retrieval_sets(folder)]
    names = set(only or ())
    folders = [folder for folder in folders if not names or folder.name in names]
    return Bench(encoder, folders, cache=options.cache, dtype=options.dtype), folders


def write_measurements(output: Path, encoder: ContextualEncoder, **measured: Any) -> None:
    """Write what was measured, and of which model, as JSON."""
    stated = {"model": encoder.identity.sha256, "name": encoder.config.name, **measured}
    write_atomically(output, json.dumps(stated, indent=1).encode())


def write_lines(output: Path, lines: Iterable[str]) -> Path:
    """Write the page beside a file of measurements; return where it is."""
    page = output.with_suffix(".md")
    write_atomically(page, "\n".join(lines).encode() + b"\n")
    return page
