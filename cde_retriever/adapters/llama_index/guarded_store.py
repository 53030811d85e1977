"""Guard a vector store where query vectors meet stored ones: both must bear the stamp of one context.

A guarded store is an instance of a subclass of its own class, made here, so it remains what it was in every other
respect, and stock retrievers, query engines and pipelines that hold the same object are guarded as well. It takes nodes
that bear its stamp, and answers queries whose vector bears it: `CDEEmbedding` gives such vectors, no other embedding
does. What is written to the same collection through another object is met, and refused, when a search returns it.
"""

from collections.abc import Sequence
from functools import lru_cache
from types import new_class
from typing import Any, ClassVar

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult

from cde_retriever.adapters.llama_index.storage import check_digest, check_stamps, some_nodes
from cde_retriever.adapters.own_class import own_class
from cde_retriever.adapters.stamps import STAMP, check_stamp, describe
from cde_retriever.errors import ContextMismatchError


def guard_store(store: BasePydanticVectorStore, stamp: str, dimension: int) -> None:
    """Make a store take and return vectors of this stamp only.

    Args:
        store: The store; changed in place.
        stamp: Stamp of its vectors.
        dimension: How many numbers they have.

    Raises:
        ContextMismatchError: if the store is guarded under another stamp, or holds a vector without this one.
    """
    if isinstance(store, GuardedStore):
        if store._stamp == stamp:
            return
        if not is_empty(store, dimension):
            check_stamp(store._stamp, stamp, f"what {type(store).__name__} holds")
    else:
        check_stored(store, stamp, dimension)
    object.__setattr__(store, "__class__", _guarded(own_class(store), stamp))


def is_empty(store: BasePydanticVectorStore, dimension: int) -> bool:
    """Tell whether a store shows no vector."""
    return not stored_stamps(store, dimension)


def stored_stamps(store: BasePydanticVectorStore, dimension: int) -> set[Any]:
    """Return the stamps of a store's vectors, None for a missing one: of all in memory, of a few elsewhere."""
    if isinstance(store, SimpleVectorStore):
        return {_stamp_in(store, node_id) for node_id in store.data.embedding_dict}
    stamp = store._stamp if isinstance(store, GuardedStore) else None
    return {node.metadata.get(STAMP) for node in some_nodes(store, dimension, stamp)}


def check_stored(store: BasePydanticVectorStore, stamp: str, dimension: int) -> None:
    """Refuse a store that holds a vector of another stamp or width.

    Raises:
        ContextMismatchError: if it does; names both.
    """
    if not isinstance(store, SimpleVectorStore):
        guarded = store._stamp if isinstance(store, GuardedStore) else None
        check_stamps(some_nodes(store, dimension, guarded), stamp)
        return
    for node_id, vector in store.data.embedding_dict.items():
        check_stamp(_stamp_in(store, node_id), stamp, f"the vector of node {node_id}")
        check_digest(store.data.metadata_dict[node_id], vector, f"node {node_id}")
        if len(vector) != dimension:
            raise ContextMismatchError(
                f"the vector of node {node_id} has {len(vector)} numbers, those of {describe(stamp)} have {dimension}; "
                "restore the file of vectors, or index the documents again"
            )


def _stamp_in(store: SimpleVectorStore, node_id: str) -> Any:
    return (store.data.metadata_dict or {}).get(node_id, {}).get(STAMP)


class GuardedStore:
    """What stands before a store's class in the bases of a guarded store."""

    __slots__ = ()

    _store_class: ClassVar[type[BasePydanticVectorStore]]
    _stamp: ClassVar[str]

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes whose vectors bear the stamp."""
        added: list[str] = super().add(self._checked(nodes), **kwargs)  # type: ignore[misc]
        return added

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do the same asynchronously."""
        added: list[str] = await super().async_add(self._checked(nodes), **kwargs)  # type: ignore[misc]
        return added

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Answer a query whose vector bears the stamp, if all that is found bears it too."""
        self._check_query(query)
        return self._check_result(super().query(query, **kwargs))  # type: ignore[misc]

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do the same asynchronously."""
        self._check_query(query)
        return self._check_result(await super().aquery(query, **kwargs))  # type: ignore[misc]

    def _checked(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        for node in nodes:
            found = node.metadata.get(STAMP)
            if found != self._stamp:
                raise ContextMismatchError(
                    f"node {node.node_id} was embedded under {describe(found)}, and {type(self).__name__} holds "
                    f"vectors of {describe(self._stamp)}; add nodes through CDEVectorStoreIndex, or with CDEEmbedding "
                    "as a transformation, under the store's context"
                )
            check_digest(node.metadata, node.get_embedding(), f"node {node.node_id}")
        return list(nodes)

    def _check_query(self, query: VectorStoreQuery) -> None:
        if query.query_embedding is not None:  # searches by words have none
            check_stamp(self._stamp, getattr(query.query_embedding, "stamp", None), f"what {type(self).__name__} holds")

    def _check_result(self, result: VectorStoreQueryResult) -> VectorStoreQueryResult:
        check_stamps(result.nodes or [], self._stamp)
        if isinstance(self, SimpleVectorStore):
            for node_id in result.ids or []:
                check_stamp(_stamp_in(self, node_id), self._stamp, f"the vector of node {node_id}")
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return what a copy is made from; the class of a guarded store cannot be found by its name."""
        reduced: Any = super().__reduce_ex__(protocol)
        return (_new_guarded, (self._store_class, self._stamp), *reduced[2:])


@lru_cache(maxsize=256)
def _guarded(store_class: type[BasePydanticVectorStore], stamp: str) -> type[BasePydanticVectorStore]:
    """Return the guarded subclass of a store's class."""
    members = {
        "_store_class": store_class,
        "_stamp": stamp,
        "__module__": store_class.__module__,
        "__annotations__": {"_store_class": ClassVar[Any], "_stamp": ClassVar[str]},
    }
    return new_class(store_class.__name__, (GuardedStore, store_class), exec_body=lambda body: body.update(members))


def _new_guarded(store_class: type[BasePydanticVectorStore], stamp: str) -> BasePydanticVectorStore:
    cls = _guarded(store_class, stamp)
    return cls.__new__(cls)
