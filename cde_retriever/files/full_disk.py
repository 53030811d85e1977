"""Say what to do where a disk takes no more: it is full, a quota is used up, or it can only be read."""

import errno
import os

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
