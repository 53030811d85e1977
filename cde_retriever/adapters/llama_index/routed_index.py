"""Give each kind of document a context of its own, in one index: `CDERoutedIndex`.

    index = CDERoutedIndex.from_documents(documents, kind_field="tenant")
    index.as_retriever(contexts=3).retrieve("a question")
    index.persist("folder")
    index = CDERoutedIndex.from_storage("folder")

Of each kind there is a `CDEVectorStoreIndex`, which guards its nodes. A query is asked of those whose contexts are
nearest (`cde_retriever.encoder.routes`); the model runs once for all, and their scores are compared as they are.
"""

import asyncio
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.ingestion import run_transformations
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode, Document, NodeWithScore, QueryBundle

from cde_retriever.adapters.llama_index.embedding import CDEEmbedding
from cde_retriever.adapters.llama_index.guard import unembedded
from cde_retriever.adapters.llama_index.index import CDEVectorStoreIndex
from cde_retriever.adapters.llama_index.splitting import transformations_for
from cde_retriever.adapters.llama_index.storage import PathLike, embedded_text
from cde_retriever.adapters.misplaced_settings import refuse_unused
from cde_retriever.adapters.routes_folder import read_routes, write_routes
from cde_retriever.context.drift import KindDrifts
from cde_retriever.context.selection import kind_of, kinds_of
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.encoder.one_pass import one_pass
from cde_retriever.encoder.routes import Routes, sort
from cde_retriever.errors import ConfigError

CONTEXTS = 3


class CDERoutedIndex:
    """An index of several contexts, one a kind of document.

    Args:
        indexes: An index in two parts by the name of its kind, all of one model; `from_documents` builds them.
        kind_field: Metadata field that says what kind a document is of; None for kinds that were made by clusters.

    Raises:
        ConfigError: for an index of one vector a node, whose scores under several contexts cannot be compared.
        ContextError: if they are of several models, or one has a context of no documents.
    """

    def __init__(self, indexes: Mapping[str, CDEVectorStoreIndex], kind_field: str | None = None) -> None:
        for name, index in indexes.items():
            if index.embedding.parts != "dense":
                raise ConfigError(
                    f"the index of kind {name!r} holds one vector a node, whose scores under several contexts cannot "
                    "be compared; build it with parts='both'"
                )
        self.indexes, self.kind_field = dict(indexes), kind_field
        self.routes = Routes({name: index.embedding.context for name, index in indexes.items()})

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        *,
        kind_field: str | None = None,
        kinds: int | None = None,
        embed_model: CDEEmbedding | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Build an index of documents, each embedded under the context of its kind.

        Args:
            documents: The corpus; split into nodes that the model reads whole.
            kind_field: Metadata field that says what kind a document is of; those without it are a kind of their own.
            kinds: Without such a field, how many kinds to make, by clusters of plain vectors: worth no more than one
                context of all (docs/figures/routing.md).
            embed_model: A `CDEEmbedding` without a context, whose settings all kinds take; None for ``CDEEmbedding()``.
            show_progress: Whether to show progress bars.
            kwargs: As for `CDEVectorStoreIndex`; ``transformations`` splits otherwise.

        Raises:
            ConfigError: if neither or both of `kind_field` and `kinds` are given, `embed_model` has a context, or no
                document has the field.
            Errors of `CDEVectorStoreIndex`.
        """
        refuse_unused(kwargs, CDEEmbedding, CDEVectorStoreIndex, "embed_model=CDEEmbedding(")
        embedding = CDEEmbedding() if embed_model is None else embed_model
        if (kind_field is None) == (kinds is None) or embedding.is_fitted:
            raise ConfigError(
                f"kind_field is {kind_field!r}, kinds is {kinds!r}, and embed_model has "
                f"{'a' if embedding.is_fitted else 'no'} context; give one of the first two, and an embedding without"
            )
        if kinds is not None:
            whole_number("kinds", kinds, 1)
        steps = kwargs.pop("transformations", None) or transformations_for(embedding.encoder)
        nodes = run_transformations(list(documents), steps, show_progress=show_progress)
        indexes = {}
        with one_pass():
            if kinds is None:
                names = kinds_of((node.metadata for node in nodes), str(kind_field))
            else:
                names = sort(_plain(embedding, nodes, show_progress), kinds, embedding.seed)
            for name in sorted(set(names)):
                indexes[name] = CDEVectorStoreIndex(
                    [node for node, kind in zip(nodes, names, strict=True) if kind == name],
                    embed_model=copy.deepcopy(embedding),
                    parts="both",
                    transformations=steps,
                    show_progress=show_progress,
                    **kwargs,
                )
        return cls(indexes, kind_field)

    def insert(self, document: Document) -> None:
        """Add a document under the context of its kind; raises as `insert_nodes` does."""
        index = next(iter(self.indexes.values()))
        self.insert_nodes(run_transformations([document], index._transformations))

    def insert_nodes(self, nodes: Sequence[BaseNode]) -> None:
        """Add nodes under the contexts of their kinds; where clusters made the kinds, under the nearest context.

        Raises:
            ConfigError: for a kind that has no context yet.
        """
        with one_pass():
            if self.kind_field is None:
                near = self.routes.nearest(_plain(next(iter(self.indexes.values())).embedding, nodes, False), 1)
                names = [found[0] for found in near]
            else:
                names = [kind_of(node.metadata, self.kind_field) for node in nodes]
            unknown = sorted(set(names) - self.indexes.keys())
            if unknown:
                raise ConfigError(
                    f"no context is of the kinds {unknown}; build a CDEVectorStoreIndex(parts='both') of their "
                    "documents and put it into CDERoutedIndex({**index.indexes, kind: it}, kind_field)"
                )
            for name in dict.fromkeys(names):
                own = [node for node, kind in zip(nodes, names, strict=True) if kind == name]
                self.indexes[name].insert_nodes(own)

    def delete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False) -> None:
        """Remove the nodes of a document."""
        for index in self.indexes.values():
            index.delete_ref_doc(ref_doc_id, delete_from_docstore=delete_from_docstore)

    @property
    def drift(self) -> KindDrifts:
        """How many documents joined each kind since it was built, and how unlike its context they are."""
        return KindDrifts({name: index.growth.joined for name, index in self.indexes.items()})

    def as_retriever(self, *, contexts: int = CONTEXTS, similarity_top_k: int = 2, **kwargs: Any) -> BaseRetriever:
        """Return a retriever that asks the kinds whose contexts are nearest to a query.

        Args:
            contexts: How many kinds to ask.
            similarity_top_k: How many nodes to return, of all kinds together.
            kwargs: As for `CDEVectorStoreIndex.as_retriever`.
        """
        return CDERoutedRetriever(self, contexts=contexts, similarity_top_k=similarity_top_k, **kwargs)

    def as_query_engine(self, llm: Any = None, **kwargs: Any) -> RetrieverQueryEngine:
        """Return a query engine over the retriever; arguments are those of `as_retriever`."""
        return RetrieverQueryEngine.from_args(self.as_retriever(**kwargs), llm=llm)

    def persist(self, folder: PathLike) -> Path:
        """Write the index to a folder as a whole: a killed process leaves the old index there or the new one.

        Raises:
            OutputError: if the folder holds something else.
            OSError: if it cannot be written; what was there is as it was.
        """
        folder = Path(folder)
        write_routes(folder, {name: index.persist for name, index in self.indexes.items()}, self.kind_field)
        return folder

    @classmethod
    def from_storage(cls, folder: PathLike, model_name: PathLike | None = None, **settings: Any) -> Self:
        """Open a persisted index.

        Args:
            folder: Where it was persisted.
            model_name: The model it was built with; None for the bundled one.
            settings: Of `CDEEmbedding`.

        Raises:
            FileNotFoundError: if there is none.
            OutputError: if its record is damaged.
            Errors of `CDEVectorStoreIndex.from_storage`.
        """

        def read(places: dict[str, Path], field: str | None) -> Any:
            indexes = {}
            for name, place in places.items():
                embedding = CDEEmbedding.from_storage(place, model_name, **settings)
                indexes[name] = CDEVectorStoreIndex.from_storage(place, embedding)
            return cls(indexes, field)

        index: Self = read_routes(Path(folder), read)
        return index


class CDERoutedRetriever(BaseRetriever):
    """Retrieves from the kinds of a `CDERoutedIndex` whose contexts are nearest to the query.

    Args:
        index: The index.
        contexts: How many kinds to ask.
        similarity_top_k: How many nodes to return, of all kinds together.
        kwargs: As for `CDEVectorStoreIndex.as_retriever`.

    Raises:
        ConfigError: for a number of contexts below 1.
        TypeError: if it is no whole number.
    """

    def __init__(
        self, index: CDERoutedIndex, contexts: int = CONTEXTS, similarity_top_k: int = 2, **kwargs: Any
    ) -> None:
        self._index, self._contexts, self._count = index, whole_number("contexts", contexts, 1), similarity_top_k
        self._retrievers: dict[str, Any] = {
            name: own.as_retriever(similarity_top_k=similarity_top_k, **kwargs) for name, own in index.indexes.items()
        }
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        encoder = next(iter(self._index.indexes.values())).embedding.encoder
        query_bundle = unembedded(query_bundle)
        with one_pass():
            plain = encoder.encode_queries(list(query_bundle.embedding_strs), parts="dense")
            mean = plain.mean(axis=0, keepdims=True)
            found: list[NodeWithScore] = self._index.routes.ask(
                mean,
                self._contexts,
                lambda name: self._retrievers[name]._retrieve(query_bundle),  # one event tells of the query: this one's
            )
        return sorted(found, key=lambda node: -(node.score or 0.0))[: self._count]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _plain(embedding: CDEEmbedding, nodes: Sequence[BaseNode], show_progress: bool) -> Any:
    """Return plain vectors of nodes, (n, d)."""
    plain = embedding.encoder.without_context()
    return plain.encode_documents([*map(embedded_text, nodes)], parts="dense", show_progress=show_progress)
