"""Say what to do where a disk takes no more: it is full, a quota is used up, or it can only be read.

Before long work it can be asked whether it has room; a quota that will be used up is seen only when it is.
"""

import errno
import os
import shutil
from pathlib import Path

_AGAIN = "free space, then do the same again"
_ADVICE = {
    errno.ENOSPC: _AGAIN,
    errno.EDQUOT: _AGAIN,
    errno.EROFS: "choose another place, or let it be written to",
}


class DiskError(OSError):
    """A disk takes no more. `strerror` says it with what to do, `errno` and `filename` are the system's."""


def disk_error(error: OSError, target: object = None, left: str = "") -> DiskError | None:
    """Return an error that a disk takes no more as one that says what to do; None for any other error.

    Args:
        error: What the system raised, or one that says what to do already, of a file that is part of the target.
        target: What was to be written; None for the file that the error names, if it names one.
        left: What holds now, such as ", and what was there is as it was".
    """
    if isinstance(error, DiskError) and target is None:
        return error
    if error.errno not in _ADVICE:
        return None
    named = error.filename if target is None else target
    said = f"{os.strerror(error.errno)}{left}; {_ADVICE[error.errno]}"
    return DiskError(error.errno, said, *(() if named is None else (str(named),)))


def need_space(folder: Path, size: int) -> None:
    """Refuse to begin what writes more than is free on a disk; one that tells no size, as some of a network, passes.

    Args:
        folder: A folder on it.
        size: Bytes that will be written.

    Raises:
        DiskError: if fewer are free; says how many.
    """
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < size:
        said = f"{os.strerror(errno.ENOSPC)}: {_megabytes(size)} will be written, and {_megabytes(usage.free)} are free"
        raise DiskError(errno.ENOSPC, f"{said}; {_AGAIN}", str(folder))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
