"""A guard on LangChain stores: they stamp what is added to them, and check the stamp of whatever a search returns.

The stamp is a context's fingerprint in a document's metadata, the one carrier every store keeps. A guarded store is an
instance of a subclass of its own class, made here, so it remains what it was in every other respect, for chains,
retrievers and `index` too. It checks what goes through its methods: what is written behind its back is met, and
refused, when a search returns it.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ClassVar

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.stamps import STAMP, check_stamp
from cde_retriever.errors import ContextMismatchError

_SEARCH = re.compile(r"a?(similarity_search|max_marginal_relevance_search|hybrid_search)")


def stamp_documents(documents: Iterable[Document], fingerprint: str) -> list[Document]:
    """Return copies of documents with this fingerprint in their metadata."""
    return [d.model_copy(update={"metadata": {**d.metadata, STAMP: fingerprint}}) for d in documents]


def check_stamps(results: Any, fingerprint: str) -> Any:
    """Return a search's results, if every document, alone or first in a tuple, was embedded under this context.

    Raises:
        ContextMismatchError: if one was embedded under another context, or has no stamp.
    """
    for result in results:
        document = result[0] if isinstance(result, tuple) else result
        check_stamp(document.metadata.get(STAMP), fingerprint, f"document {document.page_content!r:.60}")
    return results


def guard_store(store: VectorStore, fingerprint: str) -> None:
    """Make a store stamp what is added with this fingerprint, and return documents with this fingerprint only.

    Raises:
        ContextMismatchError: if it is guarded under another context already.
    """
    if not isinstance(store, _GuardedStore):
        object.__setattr__(store, "__class__", _guarded(type(store), fingerprint))
    elif store._fingerprint != fingerprint:
        raise ContextMismatchError(
            f"the store is guarded under context {store._fingerprint[:12]}, not {fingerprint[:12]}; open it anew"
        )


class _GuardedStore(VectorStore):
    """What stands before a store's class in a guarded store's bases; the searches are put in by `_guarded`."""

    _store_class: ClassVar[type[VectorStore]]
    _fingerprint: ClassVar[str]

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        return super().add_documents(stamp_documents(documents, self._fingerprint), **kwargs)

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        return await super().aadd_documents(stamp_documents(documents, self._fingerprint), **kwargs)

    def add_texts(self, texts: Iterable[str], metadatas: Any = None, *args: Any, **kwargs: Any) -> list[str]:
        texts = list(texts)
        return super().add_texts(texts, self._stamped(texts, metadatas), *args, **kwargs)

    async def aadd_texts(self, texts: Iterable[str], metadatas: Any = None, *args: Any, **kwargs: Any) -> list[str]:
        texts = list(texts)
        return await super().aadd_texts(texts, self._stamped(texts, metadatas), *args, **kwargs)

    def _stamped(self, texts: Sequence[str], metadatas: Any) -> list[dict[str, Any]]:
        return [{**(m or {}), STAMP: self._fingerprint} for m in (metadatas or [None] * len(texts))]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (_new_guarded, (self._store_class, self._fingerprint), *reduced[2:])


def _guarded(store_class: type[VectorStore], fingerprint: str) -> type[VectorStore]:
    """Return a subclass of a store whose public searches check every document they return."""
    members: dict[str, Any] = {"_store_class": store_class, "_fingerprint": fingerprint}
    for name in filter(_SEARCH.match, dir(store_class)):
        members[name] = _checked(getattr(store_class, name), fingerprint)
    members["__module__"] = store_class.__module__
    return type(store_class.__name__, (_GuardedStore, store_class), members)


def _new_guarded(store_class: type[VectorStore], fingerprint: str) -> VectorStore:
    cls = _guarded(store_class, fingerprint)
    return cls.__new__(cls)


def _checked(search: Callable[..., Any], fingerprint: str) -> Callable[..., Any]:
    async def check_later(found: Any) -> Any:
        return check_stamps(await found, fingerprint)

    @wraps(search)
    def call(*args: Any, **kwargs: Any) -> Any:
        found = search(*args, **kwargs)
        return check_later(found) if inspect.isawaitable(found) else check_stamps(found, fingerprint)

    return call
