"""Look into a store before anything is written, so that a refused write leaves it as it was.

A look is a search for one document. It is a check ahead of time: what it misses, the check of every document that a
search returns finds.
"""

from typing import Any

from cde_retriever.adapters.langchain.documents import check_stamps
from cde_retriever.adapters.stamps import NOTHING_THERE, describe, other_width, tells_other_width
from cde_retriever.errors import CDEError

_PROBE = "probe"
_LOOKED = "_cde_looked"


def first_look(store: Any, stamp: str, *, once: bool = False) -> None:
    """Compare one document of a store with a stamp.

    Args:
        store: A guarded store, at work.
        stamp: Its stamp.
        once: Whether to look only if nobody did with this argument before: for each write of many.

    Raises:
        ContextMismatchError: if the document has another stamp, or the vectors another width.
    """
    if once and _looked(store):
        return
    _judge(store, stamp, some_documents(store, stamp, 1), once)


def some_documents(store: Any, stamp: str, count: int) -> list[Any]:
    """Return some documents of a store, none of an empty one; raises as `first_look` does."""
    try:
        found: list[Any] = store.similarity_search(_PROBE, k=count)
    except Exception as error:
        found = _meaning_of(error, store, stamp)
    return found


async def later_first_look(store: Any, stamp: str) -> None:
    """Do what `first_look` does, once, in a store that may have asynchronous methods alone."""
    if _looked(store):
        return
    try:
        found = await store.asimilarity_search(_PROBE, k=1)
    except Exception as error:
        found = _meaning_of(error, store, stamp)
    _judge(store, stamp, found, once=True)


def _looked(store: Any) -> bool:
    return _LOOKED in vars(store)


def _judge(store: Any, stamp: str, found: Any, once: bool) -> None:
    check_stamps(found, stamp)
    if once:
        vars(store)[_LOOKED] = True


def _meaning_of(error: Exception, store: Any, stamp: str) -> list[Any]:
    """Return no documents if an error says that there are none, or that only asynchronous methods can tell."""
    if isinstance(error, CDEError):
        raise error
    if isinstance(error, NotImplementedError) or NOTHING_THERE.search(str(error)):
        return []
    if isinstance(error, AssertionError) or tells_other_width(error):
        raise other_width(store, f"those of {describe(stamp)}", error) from error
    raise error
