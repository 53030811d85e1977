"""Have a process keep few of the kernels that PyTorch's libraries compile, one for each shape of batch."""

import os

KERNELS = 16
"""More than one shape of batch needs, in any precision."""


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
