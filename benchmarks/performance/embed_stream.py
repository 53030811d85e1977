"""Embed a corpus as `cde embed` does, in a process of its own, and note the most memory it has had.

    python -m benchmarks.performance.embed_stream CORPUS OUTPUT PEAKS [--checkpoint FOLDER]

The peak so far is written down after every part, so that a run which is killed and gone on with keeps those of all its
processes.
"""

import argparse
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from cde_retriever.backends.kernels import keep_few_kernels
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings


def peak_megabytes() -> float:
    """Return the largest resident memory this process has had.

    On Linux of the process's own address space: `getrusage` would begin with that of the parent it was forked from.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def note_peak(file: Path) -> None:
    """Write down this process's peak so far."""
    peaks = read_peaks(file) | {str(os.getpid()): peak_megabytes()}
    file.write_text(json.dumps(peaks))


def read_peaks(file: Path) -> dict[str, float]:
    """Return the peak of every process that has worked on a run."""
    peaks: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    return peaks


def main(arguments: Sequence[str] | None = None) -> int:
    """Embed what is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.embed_stream")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("peaks", type=Path)
    parser.add_argument("--checkpoint")
    options = parser.parse_args(arguments)
    keep_few_kernels()
    settings = BulkSettings(ModelSpec(options.checkpoint, device="cpu"))
    embed_corpus(
        options.corpus, options.output, settings, show_progress=True, on_part=lambda _: note_peak(options.peaks)
    )
    note_peak(options.peaks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
