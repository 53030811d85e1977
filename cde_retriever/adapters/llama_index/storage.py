"""Keep a context in LlamaIndex: its fingerprint in every node's metadata, its bytes in the `StorageContext`.

The stamp ``metadata["cde_context"]`` is excluded from the embedded text and from what an LLM reads. The bytes stand,
in base64, in the metadata of an otherwise empty `SimpleVectorStore` under the namespace ``cde_context``:
``storage_context.persist()`` writes and ``StorageContext.from_defaults(persist_dir=...)`` reads it like any other.
"""

import base64
import binascii
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.vector_stores.simple import NAMESPACE_SEP, SimpleVectorStore
from llama_index.core.vector_stores.simple import SimpleVectorStoreData as StoreData
from llama_index.core.vector_stores.types import DEFAULT_PERSIST_FNAME, BasePydanticVectorStore, VectorStoreQuery

from cde_retriever.adapters.stamps import (
    DIGEST,
    STAMP,
    StampedVector,
    check_stamp,
    digest_of,
    other_width,
    tells_other_width,
)
from cde_retriever.context.context import Context, context_file
from cde_retriever.errors import ContextFormatError, ContextMismatchError, ContextNotFittedError
from cde_retriever.files.replacing import recover_folder

NAMESPACE = "cde_context"
PathLike = str | os.PathLike[str]

logger = logging.getLogger(__name__)


def embedded_text(node: BaseNode) -> str:
    """Return the text LlamaIndex embeds for a node, metadata included."""
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def stamped(node: BaseNode, stamp: str, vector: Sequence[float] | None = None) -> BaseNode:
    """Return a copy of the node that bears a stamp and, if it is given, its vector with the vector's digest.

    A copy, because the stamp changes the node's hash, by which a docstore tells whether a document is new.
    """
    metadata = {**node.metadata, STAMP: stamp}
    changes: dict[str, Any] = {"metadata": metadata}
    if vector is not None:
        metadata[DIGEST] = digest_of(vector)
        changes["embedding"] = list(vector)
    for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        keys = getattr(node, name)
        changes[name] = [*keys, *(key for key in (STAMP, DIGEST) if key not in keys)]
    return node.model_copy(update=changes)


def check_digest(metadata: Mapping[str, Any], vector: Sequence[float], what: str) -> None:
    """Refuse a vector that is not the one its stamp was made for; stamps of version 0.1.0 have no digest.

    Raises:
        ContextMismatchError: if it is another.
    """
    if metadata.get(DIGEST, digest := digest_of(vector)) != digest:
        raise ContextMismatchError(
            f"{what} has another vector than the one that was stamped: it was embedded anew by something else, or is "
            "damaged; restore it, or embed its document again with the CDEEmbedding of this index"
        )


def check_stamps(nodes: Iterable[BaseNode], stamp: str) -> None:
    """Refuse nodes whose vectors were made under another context, or under who knows which.

    Raises:
        ContextMismatchError: if a node's stamp is missing or another; names both.
    """
    for node in nodes:
        check_stamp(node.metadata.get(STAMP), stamp, f"node {node.node_id}")


def attach_context(storage_context: StorageContext, context: Context) -> None:
    """Put a context into a storage context, which persists and loads it with everything else.

    Raises:
        ContextMismatchError: if another one is there.
    """
    there = attached_context(storage_context)
    if there is not None:
        if there.fingerprint != context.fingerprint:
            raise ContextMismatchError(
                f"the storage context belongs to context {there.fingerprint[:12]}, not {context.fingerprint[:12]}; "
                "add to it with CDEEmbedding.from_storage(storage_context), or build a new index in a new one"
            )
        return
    content = base64.b64encode(context.to_bytes()).decode("ascii")
    store = SimpleVectorStore(data=StoreData(metadata_dict={"context": content}))
    storage_context.add_vector_store(store, namespace=NAMESPACE)


def attached_context(storage_context: StorageContext) -> Context | None:
    """Return the context of a storage context, None if it has none.

    Raises:
        ContextFormatError: if it is damaged.
    """
    store = storage_context.vector_stores.get(NAMESPACE)
    return None if store is None else _context_of(store, "the storage context")


def _context_of(store: BasePydanticVectorStore, source: str) -> Context:
    content = store.data.metadata_dict.get("context") if isinstance(store, SimpleVectorStore) else None
    try:
        return Context.from_bytes(base64.b64decode(content or "", validate=True), source=source)
    except (binascii.Error, TypeError) as error:
        raise ContextFormatError(f"the context in {source} is damaged ({error}); restore it or re-index") from error


def read_context(source: StorageContext | PathLike) -> Context:
    """Read a context from a storage context, a folder it was persisted to, or a context folder or file.

    Raises:
        ContextNotFittedError: if there is none.
        ContextMismatchError: if a folder holds two that differ.
        ContextFormatError: if it is damaged.
    """
    if isinstance(source, StorageContext):
        found = attached_context(source)
        where = "the storage context"
    else:
        found = read_folder(Path(source))
        where = str(source)
    if found is None:
        raise ContextNotFittedError(
            f"{where} holds no context: was the index built with a stock class? Then attach it, where it is built, "
            "with embed.attach_to(storage_context) before persist(), or use CDEVectorStoreIndex. If vectors live in "
            "an external store, pass the persist folder or context_dir instead of the storage context"
        )
    return found


def read_folder(folder: Path) -> Context | None:
    """Read the context file of a folder, the persisted namespace, or both if they agree; None if there is neither.

    Raises:
        ContextMismatchError: if they differ.
        ContextFormatError: if one is damaged.
    """
    recover_folder(folder)
    file = context_file(folder)
    persisted = folder / f"{NAMESPACE}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}"
    found = [Context.load(file)] if file.is_file() else []
    if persisted.is_file():
        found.append(_context_of(SimpleVectorStore.from_persist_path(str(persisted)), str(persisted)))
    if len({context.fingerprint for context in found}) > 1:
        first, second = (context.fingerprint[:12] for context in found)
        raise ContextMismatchError(
            f"{folder} holds context {first} in {file.name} and {second} in {persisted.name}; name the one the "
            "vectors were made under by passing its file, or delete the other"
        )
    return found[0] if found else None


def probe(dimension: int, stamp: str | None = None) -> VectorStoreQuery:
    """Return a query that makes a vector store show some of its nodes; a guarded one wants its stamp."""
    numbers = [1.0] + [0.0] * (dimension - 1)
    vector = numbers if stamp is None else StampedVector(numbers, stamp)
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=4)


def some_nodes(store: BasePydanticVectorStore, dimension: int, stamp: str | None = None) -> Sequence[BaseNode]:
    """Return a few nodes of a vector store that keeps them, none if it is empty or not yet there.

    Only a check ahead of time: what it misses, the check of every retrieved node finds.

    Raises:
        ContextMismatchError: if its vectors have another width.
    """
    if not store.stores_text:
        return []
    try:
        return store.query(probe(dimension, stamp)).nodes or []
    except ContextMismatchError:
        raise
    except Exception as error:  # stores say "no such collection" before the first vector, each with its own class
        if tells_other_width(error):
            raise other_width(store, f"the {dimension} numbers of the embedding in use", error) from error
        logger.debug("%s shows no nodes yet: %r", type(store).__name__, error)
        return []
