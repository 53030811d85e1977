"""Keep the two parts of a store's documents in step with what is written into it and deleted from it."""

import inspect
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

from langchain_core.documents import Document

from cde_retriever.adapters.langchain.known_vectors import known_vectors
from cde_retriever.adapters.langchain.store_parts import StoreParts, parts_of
from cde_retriever.context.knowledge import Parts

_WRITES = re.compile(r"a?(add_texts|add_documents|update_documents?)$")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Write(NamedTuple):
    """Documents that are about to be written, embedded in two parts."""

    kept: StoreParts
    ids: list[str]
    texts: list[str]
    parts: Parts


def prepare_write(store: Any, method: Callable[..., Any], arguments: Arguments) -> tuple[Write | None, Arguments]:
    """Embed what a method is about to write, if the store keeps documents in two parts.

    Returns:
        What is written, None for nothing of the kind, and the method's arguments, ids among them.

    Raises:
        TypeError: for a method whose documents cannot be told.
    """
    kept = parts_of(store)
    if kept is None:
        return None, arguments
    if not _WRITES.match(method.__name__):
        raise TypeError(
            f"{method.__name__} writes past the index of two parts that the store keeps for hybrid search; use "
            "add_documents or add_texts"
        )
    args, kwargs = arguments
    bound = inspect.signature(method).bind(store, *args, **kwargs)
    texts, ids = _documents_of(bound)
    if not texts:
        return None, arguments
    return Write(kept, ids, texts, kept.embedding.embed_documents_in_parts(texts)), (bound.args[1:], bound.kwargs)


def embedded(kept: StoreParts | None, documents: list[Document]) -> Write | None:
    """Embed documents with ids that a store is about to be built of; None without an index or documents."""
    if kept is None or not documents:
        return None
    texts = [document.page_content for document in documents]
    return Write(kept, [str(d.id) for d in documents], texts, kept.embedding.embed_documents_in_parts(texts))


def with_ids(documents: list[Document], ids: Any) -> list[Document]:
    """Return documents with these ids; with their own, or new ones, where there are none."""
    named = [document.id for document in documents] if ids is None else list(ids)
    return [
        document.model_copy(update={"id": str(name or uuid.uuid4())})
        for document, name in zip(documents, named, strict=True)
    ]


@contextmanager
def writing(write: Write | None) -> Iterator[None]:
    """Have the index know documents while a store writes them, and forget the new ones if the store raises."""
    if write is None:
        yield
        return
    new = [name for name in write.ids if name not in write.kept.index]
    write.kept.add(write.ids, write.parts)
    try:
        with known_vectors(write.kept.embedding.stamp, write.texts, write.parts.dense):
            yield
    except BaseException:
        write.kept.delete(new)
        raise


def deleting(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a store's method that deletes, after which the index forgets the documents too."""

    @wraps(method)
    def delete(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = method(self, *args, **kwargs)
        _forget(self, *args, **kwargs)
        return done

    @wraps(method)
    async def later(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = await method(self, *args, **kwargs)
        _forget(self, *args, **kwargs)
        return done

    return later if inspect.iscoroutinefunction(method) else delete


def _forget(store: Any, ids: Any = None, *_: Any, **__: Any) -> None:
    kept = parts_of(store)
    if kept is None:
        return
    if ids is None:  # all, or those of a condition
        kept.delete_gone(store)
    else:
        kept.delete([ids] if isinstance(ids, str) else [str(name) for name in ids])


def _documents_of(bound: inspect.BoundArguments) -> tuple[list[str], list[str]]:
    """Return texts and ids of what a call writes; ids are put into its arguments where there are none."""
    given, rest = bound.arguments, _rest_of(bound)
    texts: Any = given.get("texts")
    named: list[Any] = [None] * len(texts or ())
    if texts is None:
        documents = given["documents"] if "documents" in given else [given["document"]]
        texts, named = [document.page_content for document in documents], [document.id for document in documents]
    if "document_id" in given:
        return texts, [given["document_id"]]
    ids = given.get("ids") or rest.get("ids") or named
    ids = [str(name) if name else str(uuid.uuid4()) for name in ids]
    (given if "ids" in bound.signature.parameters else rest)["ids"] = ids
    return list(texts), ids


def _rest_of(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Return the further keyword arguments of a call, to read and to add to."""
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            rest: dict[str, Any] = bound.arguments.setdefault(name, {})
            return rest
    return {}
