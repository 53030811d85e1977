"""Hold NumPy's and SciPy's linear algebra at one thread while a query's products are computed.

Their BLAS gives a product of a few hundred rows to all cores, and its threads then wait for more by spinning, as those
of PyTorch and ONNX Runtime do. So between two forwards of a model they take its cores away: on two of them a fitted
query took 24 ms in place of 7, a hybrid one 18 in place of 6 (docs/log.md, 2026-11-28).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401 - which loads its BLAS, so that it is found
import scipy.linalg  # noqa: F401 - its own one
from threadpoolctl import ThreadpoolController

_POOLS = ThreadpoolController()
_HELD = threading.Lock()
"""Taken while they are held. Who came second would put back, after the first has left, the one thread it found."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold them at one thread; what they had before comes back after.

    The number is the process's. Of several threads within, the first decides, and the others wait for nothing.
    """
    if not _HELD.acquire(blocking=False):
        yield
        return
    try:
        with _POOLS.limit(limits=1, user_api="blas"):
            yield
    finally:
        _HELD.release()
