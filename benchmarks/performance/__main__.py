"""What the project's speed promises come to: every target of the table measured, and the page written.

    make bench                                              everything that is not measured yet
    python -m benchmarks.performance --only queries startup  these, anew
    python -m benchmarks.performance --table                 the page and its plots, from the figures there are
    python -m benchmarks.performance --quick                 tiny sizes, to see that everything runs

Figures go into a JSON file section by section as each finishes; the same command goes on after an interruption. A
section is kept while the checkpoint and the settings it depends on are the same. From the JSON file alone the Markdown
page and the SVG plot beside it are written; `performance-notes.md` beside it, if there, says in somebody's words what
was done about the slowest part. Takes two hours on two cores. A machine that does other work spoils it: threads that
wait for one another lose most.
"""

import argparse
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from transformers.utils import logging

from benchmarks.performance import (
    concurrent,
    context,
    documents,
    flops,
    hybrid,
    memory,
    profile,
    queries,
    scaling,
    startup,
    training,
)
from benchmarks.performance.machine import environment, load_average, use_threads
from benchmarks.performance.options import read_options, settings_of
from benchmarks.performance.page import write_page
from benchmarks.performance.rivals import load_encoder
from benchmarks.performance.sections import Section, Sections, pending
from cde_retriever.errors import TruncationWarning

MODULES: dict[str, ModuleType] = {
    "queries": queries,
    "documents": documents,
    "hybrid": hybrid,
    "context": context,
    "concurrent": concurrent,
    "startup": startup,
    "scaling": scaling,
    "flops": flops,
    "profile": profile,
    "training": training,
    "memory": memory,
}


def measure(name: str, options: argparse.Namespace, checkpoint: dict[str, str]) -> Section:
    """Measure one section; return it with what belongs to every section."""
    before, start = load_average(), time.perf_counter()
    result = MODULES[name].measure(options)
    return {
        "checkpoint": checkpoint,
        "settings": settings(name, options),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - start, 1),
        "load_average": [before, load_average()],
        "environment": environment(),
        "result": result,
    }


def settings(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the options on which a section's figures depend."""
    return settings_of(options, (*MODULES[name].READS, "threads"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the page."""
    options = read_options(list(MODULES), arguments, __doc__)
    failed = [] if options.table else run(options)
    if options.output.is_file():
        print(write_page(options.output))
    if failed:
        print(f"could not measure {', '.join(failed)}; what went wrong is said above", file=sys.stderr)
    return 1 if failed else 0


def run(options: argparse.Namespace) -> list[str]:
    """Measure what is missing, or what is asked for, and write figures and page after each section.

    Returns:
        The sections that failed; the others are measured all the same.
    """
    options.threads = use_threads(options.threads)
    os.environ.setdefault("CDE_CACHE", str(options.work_folder / "cache"))  # exports of comparisons do not outlive us
    warnings.simplefilter("ignore", TruncationWarning)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    encoder = load_encoder(options.checkpoint)
    checkpoint = {"name": encoder.config.name, "sha256": encoder.identity.sha256}
    sections = Sections(options.output)
    wanted = {name: settings(name, options) for name in MODULES}
    todo = pending(sections, wanted, checkpoint["sha256"], options.only)
    print(f"to measure: {', '.join(todo) or 'nothing, all is there'}")
    failed = []
    for name in todo:
        try:
            sections.put(name, measure(name, options, checkpoint))
        except Exception:
            traceback.print_exc()
            failed.append(name)
        else:
            write_page(options.output)
    return failed


if __name__ == "__main__":
    sys.exit(main())
