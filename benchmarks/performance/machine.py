"""The machine: its cores and load, the versions that decide figures, and how fast it multiplies matrices."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "fastembed",
    "huggingface-hub",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Return the machine, its threads and the versions that decide figures."""
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
    }


def processor() -> str:
    """Return the processor's name as Linux knows it, or what Python knows."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def version_of(package: str) -> str:
    """Return the installed version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def load_average() -> float:
    """Return the load of the last minute."""
    return round(os.getloadavg()[0], 2)


def use_threads(count: int | None) -> int:
    """Have PyTorch, ONNX Runtime and every process started from here use so many threads; return how many.

    ONNX Runtime's sessions and new processes read `OMP_NUM_THREADS`.
    """
    if count:
        torch.set_num_threads(count)
    threads = torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def matmul_flops(size: int) -> float:
    """Return FLOP a second of one float32 product of square matrices."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    start = time.perf_counter()
    torch.mm(one, other)
    return 2 * size**3 / (time.perf_counter() - start)


def peak_flops(tries: int = 5) -> float:
    """Return the best float32 matmul, FLOP a second, of squares of 1024, 1536 and 2048."""
    return max(matmul_flops(size) for _ in range(tries) for size in (1024, 1536, 2048))
