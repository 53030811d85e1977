"""Guard LangChain stores: vectors made under one context meet no query and no vector of another.

The stamp in a document's metadata says what made its vector; it is the one carrier that every store keeps. A guarded
store is an instance of a subclass of its own class, made here, so it remains what it was in every other respect, for
chains, retrievers and `index` too. Each call of a public method that searches or writes

- compares what the store embeds with, as it is at that moment, with the stamp,
- takes as a query a text, which the store embeds, or a vector that says what made it,
- before the first write, looks whether the store holds vectors of another context,
- stamps what is written, and checks the stamp of whatever a search returns.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, cast

from langchain_core.documents import Document
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.contextual_embedding import PathLike
from cde_retriever.adapters.langchain.active import active, active_store
from cde_retriever.adapters.langchain.docstore import DOOR, bind_vectors, check_merged, guard_docstore
from cde_retriever.adapters.langchain.documents import check_stamps, stamp_documents, texts_of
from cde_retriever.adapters.langchain.embedders import check_embedders, embedding_of
from cde_retriever.adapters.langchain.first_look import first_look, later_first_look
from cde_retriever.adapters.langchain.guarded_writes import deleting, prepare_write, writing
from cde_retriever.adapters.langchain.saving import replace_file, replace_index
from cde_retriever.adapters.langchain.store_growth import growth_of, joining
from cde_retriever.adapters.langchain.store_parts import parts_of
from cde_retriever.adapters.plain_vectors import save_plain
from cde_retriever.adapters.stamps import STAMP, StampedVector, check_stamp, describe
from cde_retriever.errors import ContextMismatchError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_SEARCH = re.compile(r"(?!a?metadata_)\w*search")
_WRITE = re.compile(r"a?(add|update|upsert|insert)(_|$)")
_READ = re.compile(r"a?(get_by_ids|merge_from)$")
_DELEGATING = ("aadd_texts", "aadd_documents")
_DELETE = re.compile(r"a?delete$")

_building: ContextVar[bool] = ContextVar("cde_building", default=False)


def guard_store(store: VectorStore, stamp: str) -> None:
    """Guard a store; its class changes to a guarded one, or stays as it was if this raises.

    Raises:
        ContextMismatchError: if the store is guarded under another stamp, embeds with something else, or holds vectors
            of another context.
    """
    original = type(store)
    if not isinstance(store, _GuardedStore):
        object.__setattr__(store, "__class__", _guarded(original, stamp))
    elif store.guard_stamp != stamp:
        raise ContextMismatchError(
            f"the store is guarded under {describe(store.guard_stamp)}, not {describe(stamp)}; open it anew"
        )
    try:
        with active(store):
            check_embedders(store, stamp)
            guard_docstore(store, stamp)
            first_look(store, stamp)
    except BaseException:
        object.__setattr__(store, "__class__", original)
        raise


def build_guarded(store_class: type[VectorStore], stamp: str, build: Callable[[Any], Any]) -> Any:
    """Return what a function builds with a guarded class in place of a store's own, so that no write is unguarded."""
    token = _building.set(True)
    try:
        return build(_guarded(store_class, stamp))
    finally:
        _building.reset(token)


class _GuardedStore(VectorStore):
    """What stands before a store's class in a guarded store's bases; its other methods are put in by `_guarded`."""

    _store_class: ClassVar[type[VectorStore]]
    guard_stamp: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        return (_restore_store, (self._store_class, self.guard_stamp), *reduced[2:])


def _guarded(store_class: type[VectorStore], stamp: str) -> type[VectorStore]:
    """Return a subclass of a store's class with guarded methods."""
    members: dict[str, Any] = {"_store_class": store_class, "guard_stamp": stamp, "__module__": store_class.__module__}
    for name, method in inspect.getmembers(store_class, inspect.isfunction):
        if name in _DELEGATING and method is getattr(VectorStore, name):
            continue  # calls another method, which is guarded; which one it asks the class, so it must stay as it is
        if _searches(name, method) or _WRITE.match(name) or _READ.match(name):
            members[name] = _guarded_method(name, method)
        elif _DELETE.match(name):
            members[name] = deleting(method)
        elif name in _SAVERS:
            members[name] = _SAVERS[name](method)
    return type(store_class.__name__, (_GuardedStore, store_class), members)


def _searches(name: str, method: Callable[..., Any]) -> bool:
    """Tell whether a public method returns documents for a query, by its name and what it says that it returns."""
    returned = inspect.signature(method).return_annotation
    says = returned is inspect.Signature.empty or "Document" in str(returned)
    return not name.startswith("_") and _SEARCH.match(name) is not None and says


def _restore_store(store_class: type[VectorStore], stamp: str) -> VectorStore:
    """Make an empty guarded store, for pickles, which fill it."""
    cls = _guarded(store_class, stamp)
    return cls.__new__(cls)


_restore_store.__module__ = DOOR


# One call


def _guarded_method(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is guarded where it is called from outside the store."""
    writes = _WRITE.match(name) is not None

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if active_store() is self:
            return method(self, *args, **kwargs)
        with active(self), joining(self, counts=writes and not _building.get()):
            args, kwargs = _checked_arguments(self, name, args, kwargs)
            write = None
            if writes:
                first_look(self, self.guard_stamp, once=True)
                write, (args, kwargs) = prepare_write(self, method, (args, kwargs))
            with writing(write):
                found = method(self, *args, **kwargs)
        return _checked_result(self, name, found)

    @wraps(method)
    async def later(self: Any, *args: Any, **kwargs: Any) -> Any:
        if active_store() is self:
            return await method(self, *args, **kwargs)
        with active(self), joining(self, counts=writes and not _building.get()):
            args, kwargs = _checked_arguments(self, name, args, kwargs)
            write = None
            if writes:
                await later_first_look(self, self.guard_stamp)
                write, (args, kwargs) = await run_in_executor(None, prepare_write, self, method, (args, kwargs))
            with writing(write):
                found = await method(self, *args, **kwargs)
        return _checked_result(self, name, found)

    return later if inspect.iscoroutinefunction(method) else call


def _checked_arguments(store: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Return the arguments of a guarded method, stamped where they are stored."""
    if _READ.match(name):
        if name == "merge_from":
            check_merged(store, *args, **kwargs)
            if parts_of(store) is not None:
                raise TypeError("merge_from brings no sparse parts, which hybrid search needs; use add_documents")
        return args, kwargs
    check_embedders(store, store.guard_stamp)
    if _SEARCH.match(name):
        for query in (*args[:1], *(kwargs[key] for key in ("query", "embedding", "vector") if key in kwargs)):
            _check_query(query, store.guard_stamp)
        return args, kwargs
    if name in ("add_texts", "aadd_texts"):
        return _stamped_texts(store.guard_stamp, *args, **kwargs)
    if "embedding" in name and not _building.get():
        raise ContextMismatchError(
            f"{name} brings vectors of which nobody knows what made them; use add_texts or add_documents, or add them "
            "to the unguarded store with stamped documents and guard it then"
        )
    stamped = [_stamped(value, store.guard_stamp) for value in args]
    return tuple(stamped), {key: _stamped(value, store.guard_stamp) for key, value in kwargs.items()}


def _checked_result(store: Any, name: str, found: Any) -> Any:
    return check_stamps(found, store.guard_stamp) if _SEARCH.match(name) else found


def _check_query(query: Any, stamp: str) -> None:
    if isinstance(query, StampedVector):
        check_stamp(query.stamp, stamp, "the query vector")
    elif not isinstance(query, str | int):  # a number names a stored document, as in Annoy
        raise ContextMismatchError(
            f"the query is a {type(query).__name__} that does not say what made it; pass the text, or the vector as "
            "embed_query or embed_documents of the store's embedding returned it, without computing with it"
        )


def _stamped_texts(stamp: str, texts: Any, metadatas: Any = None, *args: Any, **kwargs: Any) -> Arguments:
    texts = list(texts)
    stamped = [{**(m or {}), STAMP: stamp} for m in (metadatas or [None] * len(texts))]
    return (texts, stamped, *args), kwargs


def _stamped(value: Any, stamp: str) -> Any:
    """Return an argument with its documents stamped, one or several; anything else as it is."""
    if isinstance(value, Document):
        return stamp_documents([value], stamp)[0]
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, Document) for item in value):
        return stamp_documents(value, stamp)
    return value


# Files


def save_local(store: VectorStore, folder: PathLike) -> Path:
    """Write a guarded store that lives in memory to a folder, with its context; a killed process leaves old or new.

    FAISS writes ``index.faiss`` and ``index.pkl``, `InMemoryVectorStore` ``store.json``; `open` compares them with the
    checksums beside them. What else is in the folder stays. ``FAISS.save_local`` and ``InMemoryVectorStore.dump`` of a
    guarded store are as safe; the latter writes neither context nor checksums.

    Raises:
        TypeError: if the store keeps its data elsewhere, as Chroma does, or is not guarded.
        ContextMismatchError: if another context is in the folder.
    """
    folder, name = Path(folder), type(store).__name__
    if not isinstance(store, _GuardedStore):
        raise TypeError(f"{name} is not guarded; call guard(store, embedding) first, which checks what is in it")
    own: Any = store._store_class
    if hasattr(own, "save_local"):
        cast(Any, store).save_local(folder)
    elif hasattr(own, "dump"):
        _replace(store, folder, lambda new: own.dump(store, str(new / "store.json")))
    else:
        raise TypeError(
            f"{name} has neither save_local nor dump: it keeps its data itself, where it was built; save the context "
            "beside them with from_documents(..., context_dir=folder) or embedding.save_context(folder)"
        )
    return folder


def _folder_saver(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def save(self: Any, folder_path: Any, *args: Any, **kwargs: Any) -> None:
        bind_vectors(self)
        _replace(self, Path(folder_path), lambda new: method(self, str(new), *args, **kwargs))

    return save


def _replace(store: Any, folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a store with its context into a folder, and parts and plain vectors of its documents if kept."""
    embedding, kept = embedding_of(store), parts_of(store)

    def write_all(new: Path) -> None:
        write(new)
        if kept is not None:
            kept.save(new)
        growth_of(store).save(new)
        if embedding.encoder.plain_documents is not None:
            save_plain(embedding.encoder, new, texts_of(store))

    replace_index(folder, embedding.context, write_all)


def _file_saver(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def save(self: Any, path: Any) -> None:
        replace_file(Path(path), lambda new: method(self, str(new)))

    return save


_SAVERS = {"save_local": _folder_saver, "dump": _file_saver}
