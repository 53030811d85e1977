"""Name what made a vector, and refuse vectors that something else made: the one rule both adapters check by.

A stamp is stored with every vector under the metadata key `STAMP`. It is the fingerprint of the context the vector was
made under and, for a vector of which only the first numbers were kept, how many: ``"2f9c…"`` or ``"2f9c…/512"``; for
the dense part of a text in two parts ``"2f9c…/dense"``. Equal stamps mean comparable vectors. A digest of the vector
may stand beside it, under `DIGEST`: metadata outlive the vector they were made for, and are embedded anew by others.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cde_retriever.errors import ContextMismatchError

STAMP = "cde_context"
DIGEST = "cde_vector"
DENSE = "dense"
NOTHING_THERE = re.compile(r"no data|empty|not exist|not found|no such", re.IGNORECASE)
"""What stores say before they hold anything, each in its own words."""
_OTHER_WIDTH = re.compile(r"dimension|shape|width|size|length|features", re.IGNORECASE)
_OTHER_CONTEXT = (
    "open the index or store with the context it was built with, or embed its documents again under this one into a "
    "new one"
)
_NO_STAMP = (
    "if the encoder itself made it, without this package, either `cde migrate` makes an index of ours out of what is "
    "there, or an embedding with context_for='queries' asks it as it is, through the framework's own index or store; "
    "else embed its documents again under this one into a new one"
)
_OTHER_FORM = "give both one form: parts='dense' for the dense part, else the same truncate_dim"
_SEPARATOR = "/"


def stamp_of(fingerprint: str, kept: int | str | None = None) -> str:
    """Return the stamp of vectors made under a context.

    Args:
        fingerprint: The context's.
        kept: How many numbers of each vector were kept, None for all; `DENSE` for dense parts.
    """
    return fingerprint if kept is None else f"{fingerprint}{_SEPARATOR}{kept}"


def digest_of(vector: Sequence[float]) -> str:
    """Return a short hash of a vector, as float32."""
    return hashlib.sha256(np.asarray(vector, np.float32).tobytes()).hexdigest()[:16]


class StampedVector(list[float]):
    """A vector that says what made it, for whatever it meets next; a list of numbers otherwise."""

    __slots__ = ("stamp",)

    def __init__(self, numbers: Iterable[float], stamp: str) -> None:
        super().__init__(numbers)
        self.stamp = stamp

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a copy is made from."""
        return type(self), (list(self), self.stamp)


def fingerprint_of(stamp: str) -> str:
    """Return the context's fingerprint in a stamp."""
    return stamp.partition(_SEPARATOR)[0]


def is_dense(stamp: object) -> bool:
    """Tell whether a stamp is that of dense parts."""
    return isinstance(stamp, str) and stamp.partition(_SEPARATOR)[2] == DENSE


def describe(stamp: object) -> str:
    """Return a stamp as a person reads it; anything but a string stands for a missing one."""
    if not isinstance(stamp, str):
        return "an unknown context (it comes without a stamp)"
    fingerprint, _, kept = stamp.partition(_SEPARATOR)
    return f"context {fingerprint[:12]}" + _form(kept)


def tells_other_width(error: Exception) -> bool:
    """Tell whether a store's error says that its vectors have another number of numbers than what it was asked with."""
    return not NOTHING_THERE.search(str(error)) and _OTHER_WIDTH.search(str(error)) is not None


def other_width(store: object, in_use: str, error: Exception) -> ContextMismatchError:
    """Return what to raise of a store whose vectors have another number of numbers than the embedding in use makes.

    Args:
        store: The store.
        in_use: What its vectors were to be compared with, such as "the 384 numbers of the embedding in use".
        error: What it said.
    """
    return ContextMismatchError(
        f"{type(store).__name__} cannot compare its vectors with {in_use} ({error!r:.200}): they have another number "
        "of numbers; open it as it was built (model, one vector or both parts, context_dir, truncate_dim, "
        "vector_size), or build a new one"
    )


def _form(kept: str) -> str:
    if kept == DENSE:
        return ", the dense part"
    return f", cut to {kept} numbers" if kept else ""


def check_stamp(found: object, in_use: object, what: str) -> None:
    """Refuse a stored vector that was not made as the embedding in use makes its own.

    Args:
        found: The stamp stored with the vector; None if there is none.
        in_use: The stamp of the embedding or query vector in use; None if it does not say.
        what: What was stored, for the message.

    Raises:
        ContextMismatchError: if the stamps differ; names both.
    """
    if found == in_use:
        return
    if not isinstance(found, str):
        raise ContextMismatchError(
            f"{what} was embedded under {describe(found)}, the embedding in use has {describe(in_use)}, and nothing "
            f"says that their vectors are comparable; {_NO_STAMP}"
        )
    same = fingerprint_of(str(found)) == fingerprint_of(str(in_use))
    raise ContextMismatchError(
        f"{what} was embedded under {describe(found)}, the embedding in use has {describe(in_use)}, and their "
        f"vectors are not comparable; {_OTHER_FORM if same else _OTHER_CONTEXT}"
    )
