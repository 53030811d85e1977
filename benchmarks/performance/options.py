"""What can be asked of a run, and what a quick one asks."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUTPUT = Path("docs/figures/performance.json")
QUICK_OUTPUT = Path(tempfile.gettempdir()) / "cde-performance-quick" / "performance.json"
QUICK: dict[str, Any] = {
    "context_size": 16,
    "queries": 4,
    "documents": 16,
    "batch_size": 4,
    "repetitions": 2,
    "concurrent_queries": 32,
    "startup_repetitions": 1,
    "training_batch": 8,
    "training_context": 8,
    "training_chunk": 4,
    "training_repetitions": 1,
    "memory_documents": [200, 600],
    "scaling_repetitions": 2,
    "token_sizes": [8, 16, 32],
    "context_sizes": [8, 16],
    "corpus_sizes": [16, 32],
}


def make_parser(names: Sequence[str], description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=names, metavar="NAME", help=f"measure these anew: {', '.join(names)}")
    add("--table", action="store_true", help="measure nothing, write page and plots from the JSON file")
    add("--quick", action="store_true", help="tiny sizes, to see that everything runs; never written to docs/")
    add("--output", type=Path, help=f"default: {OUTPUT}, of a quick run {QUICK_OUTPUT}")
    add("--checkpoint", help="folder or Hub id; default: the bundled one")
    add("--eval-folder", type=Path, default=Path("../shared/eval"), help="where documents come from")
    add("--pairs", type=Path, default=Path("../shared/pairs/doc_django.jsonl.gz"), help="training pairs")
    add("--work-folder", type=Path, help="where long runs keep what they have; default: beside the temporary files")
    add("--threads", type=int, help="default: as torch decides")
    add("--repetitions", type=int, default=7)
    add("--context-size", type=int, default=512)
    add("--queries", type=int, default=40)
    add("--documents", type=int, default=10_000, help="documents to embed, a part of them each repetition")
    add("--batch-size", type=int, default=32)
    add("--callers", type=int, default=16)
    add("--concurrent-queries", type=int, default=320)
    add("--training-batch", type=int, default=256)
    add("--training-context", type=int, default=256)
    add("--training-chunk", type=int, default=32)
    add("--training-query-tokens", type=int, default=32)
    add("--training-document-tokens", type=int, default=64)
    add("--training-repetitions", type=int, default=5)
    add("--startup-repetitions", type=int, default=7)
    add("--serving-python", type=Path, help="interpreter with the packages of docs/serving.md, without PyTorch")
    add("--memory-documents", type=int, nargs=2, default=[10_000, 1_000_000], metavar=("FEW", "MANY"))
    add("--scaling-repetitions", type=int, default=5)
    add("--token-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    add("--context-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512])
    add("--corpus-sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    return parser


def read_options(
    names: Sequence[str], arguments: Sequence[str] | None, description: str | None = None
) -> argparse.Namespace:
    """Return the options; a quick run's sizes are defaults, which single options change."""
    parser = make_parser(names, description)
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args(arguments)
    options.output = options.output or (QUICK_OUTPUT if options.quick else OUTPUT)
    options.work_folder = options.work_folder or Path(tempfile.gettempdir()) / "cde-performance"
    options.work_folder = options.work_folder.absolute()  # for processes that start elsewhere
    if options.serving_python:
        options.serving_python = options.serving_python.absolute()
    return options


def settings_of(options: argparse.Namespace, reads: Sequence[str]) -> dict[str, Any]:
    """Return the options on which a section's figures depend, as JSON holds them; of a file, its name."""
    values = {name: getattr(options, name) for name in reads}
    return {name: value.name if isinstance(value, Path) else value for name, value in values.items()}
