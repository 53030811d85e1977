"""Run the model once for texts that are embedded under several contexts: `one_pass`.

A corpus head is applied to a text's plain vector after the model has run. So in a block of `one_pass` encoders of one
model, each under its own context, share the plain vectors of the texts that any of them has embedded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cde_retriever.context.context import ModelIdentity
from cde_retriever.encoder.plain_documents import PlainDocuments

_passes: ContextVar[dict[tuple[str, str], PlainDocuments] | None] = ContextVar("cde_one_pass", default=None)


@contextmanager
def one_pass() -> Iterator[None]:
    """Have encoders share texts' plain vectors in this thread or task, and in those that it waits for."""
    token = _passes.set({})
    try:
        yield
    finally:
        _passes.reset(token)


def shared_plain(model: ModelIdentity, role: str) -> PlainDocuments | None:
    """Return the plain vectors of a role's texts that a model has made in the block; None outside of one."""
    shared = _passes.get()
    return None if shared is None else shared.setdefault((repr(model), role), PlainDocuments())
