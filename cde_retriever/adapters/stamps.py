"""Name what made a vector, and refuse vectors that something else made: the one rule both adapters check by.

A stamp is stored with every vector under the metadata key `STAMP`. It is the fingerprint of the context the vector was
made under and, for a vector of which only the first numbers were kept, how many: ``"2f9c…"`` or ``"2f9c…/512"``. Equal
stamps mean comparable vectors.
"""

from cde_retriever.errors import ContextMismatchError

STAMP = "cde_context"
_SEPARATOR = "/"


def stamp_of(fingerprint: str, kept: int | None = None) -> str:
    """Return the stamp of vectors made under a context.

    Args:
        fingerprint: The context's.
        kept: How many numbers of each vector were kept; None for all.
    """
    return fingerprint if kept is None else f"{fingerprint}{_SEPARATOR}{kept}"


def describe(stamp: object) -> str:
    """Return a stamp as a person reads it; anything but a string stands for a missing one."""
    if not isinstance(stamp, str):
        return "an unknown context (it was stored without a stamp)"
    fingerprint, _, kept = stamp.partition(_SEPARATOR)
    return f"context {fingerprint[:12]}" + (f", cut to {kept} numbers" if kept else "")


def check_stamp(found: object, expected: str, what: str) -> None:
    """Refuse a vector that was not made as the embedding in use makes its own.

    Args:
        found: The stamp stored with it; None if there is none.
        expected: The stamp of the embedding in use.
        what: The vector, for the message.

    Raises:
        ContextMismatchError: if the stamps differ; names both.
    """
    if found != expected:
        raise ContextMismatchError(
            f"{what} was embedded under {describe(found)}, the embedding in use has {describe(expected)}, and their "
            "vectors are not comparable; open the index or store with the context it was built with, or embed its "
            "documents again under this one into a new one"
        )
