"""Read which collection of a store a command is about."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cde_retriever.errors import ConfigError

if TYPE_CHECKING:  # help needs no NumPy
    from cde_retriever.lifecycle.collection import Collection

_OWN_FILE = {"chroma": "chroma.sqlite3", "qdrant": "meta.json"}
"""A file that is in the folder of every store of a kind."""


def add_store_options(command: argparse.ArgumentParser, otherwise: str) -> None:
    """Add the options to a command; `otherwise` says what holds the vectors by default."""
    store = command.add_mutually_exclusive_group()
    for name in _OWN_FILE:
        store.add_argument(
            f"--{name}",
            metavar="STORE",
            help=f"folder or http://host:port of the {name.title()} that holds the vectors (default: {otherwise})",
        )
    command.add_argument(
        "--collection", metavar="NAME", help="name that the collection was built under (default: none)"
    )


def read_store_options(options: argparse.Namespace) -> "Collection | None":
    """Return the collection that the options name, None for an index in its folder.

    Raises:
        ConfigError: for a store without a collection, or the other way round.
        FileNotFoundError: if there is no such store.
        ImportError: if the store's client is not installed.
    """
    from cde_retriever.lifecycle.collection import Collection

    kind = "chroma" if options.chroma else "qdrant"
    place = options.chroma or options.qdrant
    if (place is None) != (options.collection is None):
        raise ConfigError("a collection needs its store, and a store its collection: --chroma STORE --collection NAME")
    if place is None:
        return None
    address = urlsplit(place)
    if not address.hostname and not (Path(place) / _OWN_FILE[kind]).is_file():  # the clients would make one
        raise FileNotFoundError(
            f"no store at {place}; give the folder of the store, in which {_OWN_FILE[kind]} is, or http://host:port"
        )
    return Collection(_client(kind, place), options.collection)


def _client(kind: str, place: str) -> Any:
    """Return a client of the store in a folder or at an address."""
    address = urlsplit(place)
    if kind == "qdrant":
        import qdrant_client

        return qdrant_client.QdrantClient(url=place) if address.hostname else qdrant_client.QdrantClient(path=place)
    import chromadb
    from chromadb.config import Settings

    if address.hostname:
        return chromadb.HttpClient(address.hostname, address.port or 8000, ssl=address.scheme == "https")
    return chromadb.PersistentClient(place, Settings(anonymized_telemetry=False))
