"""Count what joins a guarded store, and tell whether it is like what the store's context was fitted on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

from langchain_core.vectorstores import VectorStore

from cde_retriever.adapters.growth import Growth
from cde_retriever.adapters.langchain.embedders import embedding_of
from cde_retriever.adapters.langchain.noted_vectors import noting
from cde_retriever.context.drift import Drift, KindDrifts

_ATTRIBUTE = "_cde_growth"


def growth_of(store: VectorStore) -> Growth:
    """Return what counts for a guarded store."""
    if not isinstance(store, VectorStore):
        raise TypeError(f"expected a guarded store, received {type(store).__name__}: {store!r:.80}")
    kept: Growth | None = vars(store).get(_ATTRIBUTE)
    if kept is None:
        kept = Growth(embedding_of(store))
        attach_growth(store, kept)
    return kept


def attach_growth(store: VectorStore, growth: Growth) -> None:
    """Let something else count from now on, such as what was stored with the store."""
    vars(store)[_ATTRIBUTE] = growth


@contextmanager
def joining(store: Any, *, counts: bool) -> Iterator[None]:
    """Count what is embedded in the block as having joined a store, unless the block raises."""
    if not counts:
        yield
        return
    with noting() as noted:
        yield
    for texts, vectors in noted:
        growth_of(store).join(texts, vectors)


@overload
def drift(store: VectorStore) -> Drift: ...


@overload
def drift(store: Mapping[str, VectorStore]) -> KindDrifts: ...


def drift(store: VectorStore | Mapping[str, VectorStore]) -> Drift | KindDrifts:
    """Tell how many documents joined a guarded store since its context was fitted, and how unlike that they are.

    Counted is what the store's embedding embedded for it: not what a cache knew, nor what came past the guard.

    Args:
        store: The store, or the stores of several kinds (`from_documents_by_kind`): then told of each, and of all.

    Raises:
        ContextMismatchError: if the store does not embed with a `CDEEmbeddings`.
        TypeError: if it is no store.
    """
    if isinstance(store, Mapping):
        return KindDrifts({name: growth_of(one).joined for name, one in store.items()})
    return growth_of(store).drift
