"""Have a process of our own keep little memory: few of the kernels that PyTorch's libraries compile, and one heap."""

import ctypes
import os
import sys

KERNELS = 16
"""More than one shape of batch needs, in any precision."""
_M_ARENA_MAX = -8


def keep_few_kernels(most: int = KERNELS) -> None:
    """Have a process of our own keep few compiled kernels; to be called before its first tensor.

    PyTorch has oneDNN compile a kernel for each shape of batch. oneDNN keeps 1,024 of them, and so does ideep, which
    stands between the two, for layers with packed weights, at half a megabyte each. The others are small, but lie in
    the heap where a batch's tensors were, and over thousands of shapes the heap grows around them (docs/log.md). An
    application with models of its own decides for itself, so nothing else calls this.

    Args:
        most: How many are kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(most))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(most))  # ideep's


def keep_one_heap() -> None:
    """Have all threads of a process share one heap; to be called before there are any.

    glibc gives threads up to eight heaps a core, and each keeps what its largest batch took. A model runs one batch at
    a time, so its callers' threads gain nothing by heaps of their own (docs/log.md).
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        limit = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library of Linux has it
        if limit is not None:
            limit(_M_ARENA_MAX, 1)
