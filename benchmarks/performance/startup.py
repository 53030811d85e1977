"""Start-up: from starting Python to the first query's vector, in fresh processes that take turns.

Ours imports the package, loads the checkpoint, opens a saved context, embeds a query; sentence-transformers loads the
same plain backbone and embeds it. Exports to ONNX are made beforehand. The first round warms up the page cache and is
not counted. With `--serving-python`, the interpreter of an environment that has no PyTorch takes part, and both
environments' sizes on disk are given.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.performance.rivals import (
    BACKENDS,
    SERVING_BACKENDS,
    load_encoder,
    sentence_transformer,
    write_plain_backbone,
)
from benchmarks.performance.texts import real_documents
from benchmarks.performance.timing import Timings, interleave, medians, ratio
from cde_retriever.backends.exported import ExportBackend
from cde_retriever.checkpoint.folder import find_checkpoint, hash_checkpoint

READS = ("context_size", "startup_repetitions", "serving_python")
REFERENCE, SERVING = "sentence_transformers", "serving"
ROOT = Path(__file__).parent.parent.parent
MODULE = "benchmarks.performance.first_query"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare what both sides load, and start them in turns."""
    corpus, _ = real_documents(options.eval_folder, options.context_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, model = folder / "plain", folder / "model"
        write_plain_backbone(load_encoder(options.checkpoint), plain)
        sentence_transformer(plain, load_encoder(options.checkpoint)).save(str(model))
        commands = {REFERENCE: [sys.executable, "-m", MODULE, "sentence-transformers", str(model)]}
        for backend in SERVING_BACKENDS:
            commands[backend] = our_command(options, backend, corpus, folder / f"{backend}.safetensors")
        if options.serving_python:
            commands[SERVING] = [str(options.serving_python), *commands["onnx_int8"][1:]]
        timings = time_starts(commands, options.startup_repetitions)
        checks = time_checks(options)
    found: dict[str, Any] = {
        "ratios": {side: ratio(timings, side, REFERENCE) for side in commands if side != REFERENCE},
        "seconds_a_start": medians(timings),
        "seconds": timings,
        "seconds_of_checksums": medians(checks),
        "about": {"context_documents": options.context_size},
    }
    if options.serving_python:
        interpreters = {SERVING: str(options.serving_python), "full": sys.executable}
        found["installed_megabytes"] = {side: installed_megabytes(python) for side, python in interpreters.items()}
    return found


def our_command(options: argparse.Namespace, backend: str, corpus: Sequence[str], context: Path) -> list[str]:
    """Fit and save a context with a backend; return the command that starts from it."""
    encoder = load_encoder(options.checkpoint, backend)
    encoder.fit_context(corpus, context_size=options.context_size).save(context)
    settings = json.dumps({"name": options.checkpoint, **BACKENDS[backend]})
    return [sys.executable, "-m", MODULE, "ours", settings, str(context)]


def time_checks(options: argparse.Namespace) -> Timings:
    """Time the checksums of a checkpoint and its exports alone; an export is opened while they are computed."""
    checkpoint = find_checkpoint(options.checkpoint)[0]
    checks: dict[str, Callable[[], object]] = {"torch": partial(hash_checkpoint, checkpoint)}
    for backend in SERVING_BACKENDS:
        opened = load_encoder(options.checkpoint, backend).backend
        if isinstance(opened, ExportBackend):
            checks[backend] = partial(opened.export.verify, opened.folder)
    return interleave(checks, options.startup_repetitions, "Checksums")


def time_start(command: Sequence[str]) -> tuple[float, str]:
    """Start a process; return the seconds to its first line, and that line. Its ending is awaited, not timed.

    Raises:
        RuntimeError: if it fails; holds what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed: {said.read()[-2000:]}")
    return seconds, line.strip()


def time_starts(commands: Mapping[str, Sequence[str]], repetitions: int) -> Timings:
    """Time processes in turns, after one round of warm-up."""
    timings: Timings = {side: [] for side in commands}
    for repetition in tqdm(range(repetitions + 1), desc="Starts", unit="round"):
        for side, command in commands.items():
            seconds, _ = time_start(command)
            if repetition > 0:
                timings[side].append(seconds)
    return timings


def installed_megabytes(python: str) -> float:
    """Return the size of an environment's installed packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    files = (file for file in Path(folder).rglob("*") if file.is_file() and not file.is_symlink())
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)
