"""Begin the collection that a refit or a migration fills, and compare what was written into it with what was given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cde_retriever.context.context import Context, context_file
from cde_retriever.errors import ConfigError, ContextMismatchError, OutputError
from cde_retriever.lifecycle.collection import FILE_NAME, Client, Collection, collection_in, write_collection
from cde_retriever.search.index_file import index_files


def begin_collection(folder: Path, collection: Collection, old: str, context: Context) -> str:
    """Make an empty collection beside an old one, name it in a copy of the old context's folder, and return its name.

    What the copy keeps of the old context goes.
    """
    name = _name(collection, context)
    write_collection(folder, name)  # first, so that whoever removes the folder knows what to delete
    context_file(folder).unlink(missing_ok=True)
    for file in index_files(folder):
        file.unlink(missing_ok=True)
    collection.opened().begin(name, old)
    return name


def begin_migrated(folder: Path, collection: Collection, context: Context, width: int) -> str:
    """Make an empty collection beside one of another embedding, name it in an empty folder, and return its name.

    Args:
        folder: Where its context will be.
        collection: The old one.
        context: The new one's.
        width: How many numbers a vector has.

    Raises:
        ConfigError: if there is a collection of that name.
    """
    name, client = _name(collection, context), collection.opened()
    if name in client.names():
        raise ConfigError(
            f"there is a collection {name!r} already, of another migration of the same documents; open it with the "
            "context_dir that was made with it, or delete it"
        )
    write_collection(folder, name)  # first, so that whoever removes the folder knows what to delete
    client.begin(name, collection.name, width)
    return name


def _name(collection: Collection, context: Context) -> str:
    return f"{collection.name}-{context.fingerprint[:12]}"


def check_written(client: Client, name: str, ids: Sequence[str]) -> None:
    """Refuse a collection that does not hold what was written into it.

    Raises:
        OutputError: if it lacks a record, or has another one.
    """
    there = {record.id for record in client.records(name)}
    if there != set(ids):
        raise OutputError(
            f"{len(set(ids))} documents were written to collection {name!r}, and it holds {len(there)}, "
            f"{len(there & set(ids))} of them those that were written: the store lost writes; run the same again"
        )


def check_collection(store: Any, folder: Path) -> None:
    """Refuse a store over another collection than the one whose context is in a folder.

    Raises:
        ContextMismatchError: if it is another; stores that do not name their collection are passed over.
    """
    own = getattr(store, "collection_name", None) or getattr(store, "_collection_name", None)
    own = own or getattr(getattr(store, "client", None), "name", None)
    if own is not None and (folder / FILE_NAME).is_file() and own != (named := collection_in(folder, "")):
        raise ContextMismatchError(
            f"the store is over collection {own!r}, and the context in {folder} is that of {named!r}, which a refit "
            f"made of it; open the collection that collection_in({str(folder)!r}, name) names"
        )
