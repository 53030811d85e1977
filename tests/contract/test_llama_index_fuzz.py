"""Random sequences of what users do with embeddings, indexes, stores and pipelines: no result under two contexts.

Among it what should not be done: refits, embeddings that are swapped or of another class, files of vectors that are
copied from one index to another, vectors of another length, stock classes over what is ours, pipelines started anew.

The oracle keeps, for every stored vector, the fingerprint of the encoder that made it (seen at
`ContextualEncoder.encode_documents`, below everything under test). Every answered query must have been embedded under
the fingerprint of each node it returns, and stored vectors and scores must be those an independent encoder recomputes.
"""

import asyncio
import copy
import itertools
import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from chromadb.errors import InvalidArgumentError
from llama_index.core import MockEmbedding, QueryBundle, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever import ConfigError, ContextError, ContextualEncoder
from cde_retriever.adapters.llama_index.guarded_store import GuardedStore
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.llama_index import CDEContextGuard, CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, Oracle, chroma, corpus, stored_vector, text_nodes
from tests.tiny import small_checkpoint

NUMBERS = itertools.count()


class Ledger:
    """Which context made a vector: what `ContextualEncoder.encode_documents` returned, by its bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: dict[bytes, set[str]] = {}
        encode = ContextualEncoder.encode_documents

        def recorded(encoder, texts, **kwargs):
            vectors = encode(encoder, texts, **kwargs)
            for vector in vectors:
                self.made.setdefault(vector.tobytes(), set()).add(encoder.context.fingerprint)
            return vectors

        monkeypatch.setattr(ContextualEncoder, "encode_documents", recorded)

    def makers(self, vector: np.ndarray) -> set[str]:
        return self.made[np.asarray(vector, np.float32).tobytes()]


class World:
    """Embeddings, indexes, external stores and folders, and the things a user may do with them, rightly or not."""

    def __init__(self, checkpoint: Path, folder: Path, ledger: Ledger, oracles: dict, counts: Counter) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.ledger, self.oracles, self.counts = ledger, oracles, counts
        self.embeddings = [CDEEmbedding(checkpoint)]
        self.pipelines: list[tuple[str, Path]] = []  # name of the collection, and where docstore and cache are
        self.indexes: list[CDEVectorStoreIndex] = []
        self.stores = [chroma()]
        self.folders: list[tuple[Path, BasePydanticVectorStore | None]] = []  # with the external store, if any
        self.bundle = QueryBundle(QUERY)

    def new_embedding(self, a: int, b: int) -> None:
        """Make an embedding, sometimes of short vectors under a context that another has."""
        embedding = CDEEmbedding(self.checkpoint, truncate_dim=12 if a % 4 == 3 else None)
        other = self.embeddings[b % len(self.embeddings)]
        if a % 4 > 1 and other.is_fitted:
            embedding.load_context(other.context)
        self.embeddings.append(embedding)

    def fit(self, a: int, b: int) -> None:
        """Fit, or try to refit."""
        embedding = self.embeddings[a % len(self.embeddings)]
        before = embedding.context_fingerprint if embedding.is_fitted else None
        try:
            embedding.fit([embedded_text(document) for document in corpus(6, b % 3)])
        finally:
            assert before in (None, embedding.context_fingerprint)

    def _embedding(self, a: int) -> CDEEmbedding:
        """Return one of those there are, or a new one."""
        if a % 2:
            self.new_embedding(0, 0)
        return self.embeddings[(a // 2) % len(self.embeddings)] if a % 2 == 0 else self.embeddings[-1]

    def build(self, a: int, b: int) -> None:
        """Build an index, alone or in a Chroma collection others may use, with a new embedding or a used one."""
        embedding, documents = self._embedding(a), corpus(6, b % 3)
        storage = StorageContext.from_defaults()
        if b % 2:
            if a % 3 == 0:
                self.stores.append(chroma())
            storage = StorageContext.from_defaults(vector_store=self.stores[b % len(self.stores)])
        elif self.indexes and a % 5 == 0:
            storage = self.indexes[b % len(self.indexes)].storage_context
        context_dir = self.folder / f"context-{a % 4}" if b % 4 > 1 else None
        self.indexes.append(
            CDEVectorStoreIndex.from_documents(
                documents, embed_model=embedding, storage_context=storage, context_dir=context_dir, use_async=a % 7 == 0
            )
        )

    def persist(self, a: int, _: int) -> None:
        index = self.indexes[a % len(self.indexes)]
        folder = self.folder / f"index-{next(NUMBERS)}"
        index.storage_context.persist(folder)
        (folder / "index_id").write_text(index.index_id)
        self.folders.append((folder, index.vector_store if index.vector_store.stores_text else None))

    def _stored(self, a: int) -> tuple[Path, StorageContext]:
        folder, store = self.folders[a % len(self.folders)]
        return folder, StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))

    def load(self, a: int, b: int) -> None:
        """Open a persisted index with its own context, or with whatever embedding is at hand."""
        folder, storage = self._stored(a)
        right = b % 2 == 0
        embedding = CDEEmbedding.from_storage(folder, self.checkpoint) if right else self._embedding(b)
        index_id = (folder / "index_id").read_text()
        self.indexes.append(CDEVectorStoreIndex.from_storage(storage, embedding, index_id=index_id))
        self.embeddings.append(embedding)

    def open_store(self, a: int, b: int) -> None:
        store = self.stores[a % len(self.stores)]
        self.indexes.append(CDEVectorStoreIndex.from_vector_store(store, self._embedding(b)))

    def insert(self, a: int, b: int) -> None:
        index = self.indexes[a % len(self.indexes)]
        seed = 100 + next(NUMBERS)
        before = dict(index.vector_store.data.embedding_dict) if hasattr(index.vector_store, "data") else {}
        if b % 3 == 0:
            index.insert(corpus(1, seed)[0])
        elif b % 3 == 1:
            index.insert_nodes(text_nodes(3, seed))
        else:
            other = self.embeddings[b % len(self.embeddings)]
            index.insert_nodes(other(text_nodes(3, seed)) if other.is_fitted else text_nodes(2, seed))
        after = index.vector_store.data.embedding_dict if before else {}
        assert all(after[key] == vector for key, vector in before.items())

    def query(self, a: int, b: int) -> None:
        """Query with the index's embedding or another, sync or async, sometimes with a bundle used before."""
        index = self.indexes[a % len(self.indexes)]
        embedding = index.embedding if b % 3 else self.embeddings[b % len(self.embeddings)]
        retriever = index.as_retriever(similarity_top_k=4 + b % 12, embed_model=embedding)
        query = self.bundle if b % 2 else QUERY
        found = asyncio.run(retriever.aretrieve(query)) if b % 5 == 0 else retriever.retrieve(query)
        self.judge(index, found, embedding)

    def query_stock(self, a: int, b: int) -> None:
        """Query a persisted index through the stock class and the guard."""
        folder, storage = self._stored(a)
        wrong = self.embeddings[b % len(self.embeddings)]
        embedding = wrong if b % 3 == 0 else CDEEmbedding.from_storage(folder, self.checkpoint)
        index_id = (folder / "index_id").read_text()
        index = load_index_from_storage(storage, index_id=index_id, embed_model=embedding)
        query = self.bundle if b % 2 else QueryBundle(QUERY)
        found = index.as_retriever(similarity_top_k=4 + b % 12).retrieve(query)
        found = CDEContextGuard(embed_model=embedding).postprocess_nodes(found, query)
        self.judge(index, found, embedding)

    def _any_embedding(self, b: int):
        """Return an embedding of ours, or one of another class."""
        return MockEmbedding(embed_dim=32) if b % 4 == 0 else self.embeddings[b % len(self.embeddings)]

    def query_by_stock_retriever(self, a: int, b: int) -> None:
        index, embedding = self.indexes[a % len(self.indexes)], self._any_embedding(b)
        own = {} if index.vector_store.stores_text else {"node_ids": list(index.index_struct.nodes_dict.values())}
        retriever = VectorIndexRetriever(index, embed_model=embedding, similarity_top_k=4 + b % 12, **own)
        found = asyncio.run(retriever.aretrieve(QUERY)) if b % 5 == 0 else retriever.retrieve(QUERY)
        self.judge(index, found, embedding)

    def query_by_stock_index(self, a: int, b: int) -> None:
        """Query the store object of an index, or its storage, through a stock index."""
        index, embedding = self.indexes[a % len(self.indexes)], self._any_embedding(b)
        if not isinstance(index.vector_store, GuardedStore):
            return  # empty, and under no context yet: a stock index may have it
        if index.vector_store.stores_text:
            stock = VectorStoreIndex.from_vector_store(index.vector_store, embed_model=embedding)
        else:
            stock = VectorStoreIndex(
                index_struct=index.index_struct, storage_context=index.storage_context, embed_model=embedding
            )
        if b % 3 == 0:
            stock.insert(corpus(1, 100 + next(NUMBERS))[0])
        self.judge(index, stock.as_retriever(similarity_top_k=4 + b % 12).retrieve(QUERY), embedding)

    def reopen_by_stock_function(self, a: int, b: int) -> None:
        """Open what is on the disk without a guard of one's own."""
        folder, storage = self._stored(a)
        embedding = self._any_embedding(b)
        if b % 3 == 0:
            embedding = CDEEmbedding.from_storage(folder, self.checkpoint)
        try:
            index = load_index_from_storage(storage, index_id=(folder / "index_id").read_text(), embed_model=embedding)
        except TypeError as error:
            raise ContextError(str(error)) from error  # an embedding of another class
        self.judge(index, index.as_retriever(similarity_top_k=4 + b % 12).retrieve(QUERY), embedding)

    def swap_embedding(self, a: int, b: int) -> None:
        """Put another embedding in the place of an index's own, add, ask, and put the own one back."""
        index = self.indexes[a % len(self.indexes)]
        own, index._embed_model = index._embed_model, self._any_embedding(b)
        try:
            if b % 2:
                index.insert_nodes(text_nodes(2, 100 + next(NUMBERS)))
            self.judge(index, index.as_retriever(similarity_top_k=8).retrieve(QUERY), index._embed_model)
        except TypeError as error:
            raise ContextError(str(error)) from error
        finally:
            index._embed_model = own

    def change_length(self, a: int, _: int) -> None:
        embedding = self.embeddings[a % len(self.embeddings)]
        before = embedding.dimension
        with pytest.raises(ConfigError, match="truncate_dim cannot be set"):
            embedding.truncate_dim = 20
        assert embedding.dimension == before == copy.deepcopy(embedding).dimension

    def copy_vectors(self, a: int, b: int) -> None:
        """Put the file of vectors of one index in the place of another's."""
        source, target = self.folders[a % len(self.folders)][0], self.folders[b % len(self.folders)][0]
        file = "default__vector_store.json"
        if source != target and (source / file).exists() and (target / file).exists():
            shutil.copy(source / file, target)

    def run_pipeline(self, a: int, b: int) -> None:
        """Run a pipeline whose objects are new, over docstore, cache and collection that may be old."""
        if a % 3 == 0 or not self.pipelines:
            self.pipelines.append((f"p-{next(NUMBERS)}-{id(self)}", self.folder / f"pipeline-{next(NUMBERS)}"))
        name, folder = self.pipelines[a % len(self.pipelines)]
        embedding = CDEEmbedding(self.checkpoint) if b % 3 else self.embeddings[b % len(self.embeddings)]
        store = chroma(name=name)
        pipeline = IngestionPipeline(
            transformations=[embedding], docstore=SimpleDocumentStore(), vector_store=store, disable_cache=b % 2 == 0
        )
        if folder.exists() and b % 7:
            pipeline.load(str(folder))
        run = pipeline.arun if b % 5 == 0 else None
        documents = corpus(4 + b % 5, a % 3)
        asyncio.run(run(documents=documents)) if run else pipeline.run(documents=documents)
        pipeline.persist(str(folder))
        self.embeddings.append(embedding)
        if embedding.is_fitted:
            self.indexes.append(CDEVectorStoreIndex.from_vector_store(store, embedding))
            found = self.indexes[-1].as_retriever(similarity_top_k=12).retrieve(QUERY)
            self.judge(self.indexes[-1], found, embedding)

    def read_after_refused_write(self, a: int, b: int) -> None:
        """A write that was refused leaves a store that its own context opens and asks as before."""
        index = self.indexes[a % len(self.indexes)]
        other = self.embeddings[b % len(self.embeddings)]
        if not (other.is_fitted and isinstance(index.vector_store, GuardedStore)):
            return
        if other.stamp == index.embedding.stamp:
            return
        top = {"similarity_top_k": 6}
        before = [node.node_id for node in index.as_retriever(**top).retrieve(QUERY)]
        for write in (index.insert_nodes, index.vector_store.add):
            with pytest.raises(ContextError):
                write(other(text_nodes(2, 100 + next(NUMBERS))))
        settings = {"storage_context": index.storage_context, "embed_model": index.embedding}
        again = CDEVectorStoreIndex(index_struct=index.index_struct, **settings)
        assert [node.node_id for node in again.as_retriever(**top).retrieve(QUERY)] == before
        self.counts["read after a refused write"] += 1

    def judge(self, index: VectorStoreIndex, found, embedding: CDEEmbedding) -> None:
        if not found:
            return
        assert isinstance(embedding, CDEEmbedding), "an embedding of another class was answered"
        context = embedding.context
        self.oracles[embedding.dimension].check(index.vector_store, found, QUERY, context)
        for node in found:
            assert node.metadata[STAMP] == embedding.stamp
            assert context.fingerprint in self.ledger.makers(stored_vector(index.vector_store, node.node))
        self.counts["answered"] += bool(found)
        self.counts["nodes"] += len(found)


OPERATIONS = (
    *("new_embedding", "new_embedding", "fit", "fit", "build", "build", "build", "persist", "persist", "load", "load"),
    *("open_store", "insert", "insert", "query", "query", "query", "query_stock", "query_stock"),
    *("query_by_stock_retriever", "query_by_stock_retriever", "query_by_stock_index", "query_by_stock_index"),
    *("reopen_by_stock_function", "reopen_by_stock_function", "swap_embedding", "swap_embedding", "change_length"),
    *("copy_vectors", "copy_vectors", "run_pipeline", "run_pipeline", "read_after_refused_write"),
)
SEQUENCES, STEPS = int(os.environ.get("CDE_SEQUENCES", "24")), int(os.environ.get("CDE_STEPS", "24"))
FIRST = int(os.environ.get("CDE_SEED", "0"))
"""A long run: CDE_SEQUENCES=1000 CDE_SEED=24 CDE_STEPS=12, number of sequences, first seed, operations in each."""
NEEDS = dict.fromkeys(("persist", "insert", "query", "query_by_stock_retriever", "query_by_stock_index"), "indexes")
NEEDS |= dict.fromkeys(("swap_embedding", "read_after_refused_write"), "indexes")
NEEDS |= dict.fromkeys(("load", "query_stock", "reopen_by_stock_function", "copy_vectors"), "folders")


def play(world: World, rng: random.Random) -> None:
    world.build(1, 0)
    for _ in range(STEPS):
        name, a, b = rng.choice(OPERATIONS), rng.randrange(60), rng.randrange(60)
        if name in NEEDS and not getattr(world, NEEDS[name]):
            continue
        try:
            getattr(world, name)(a, b)
        except ContextError:  # refused, as it may be; anything else is a defect
            world.counts[f"refused {name}"] += 1
        except InvalidArgumentError as error:  # Chroma refuses another length by itself
            if "dimension" not in str(error):
                raise
            world.counts[f"refused {name}"] += 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Folder of a model of one layer: thousands of sequences wait for it."""
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="module")
def oracles(checkpoint) -> dict[int, Oracle]:
    """Return an oracle for each length of vectors."""
    return {32: Oracle(checkpoint), 12: Oracle(checkpoint, truncate_dim=12)}


def test_the_oracle_tells_contexts_apart(checkpoint, oracles) -> None:
    contexts = []
    for seed in range(3):
        embedding = CDEEmbedding(checkpoint)
        contexts.append(embedding.fit([embedded_text(document) for document in corpus(6, seed)]))
    for one, other in itertools.combinations(contexts, 2):
        for document in corpus(6):
            first, second = (oracles[32].vector(context, "document", document.text) for context in (one, other))
            assert np.abs(first - second).max() > 1e-3  # ten times the tolerance of Oracle.check


def test_no_sequence_gives_a_result_under_two_contexts(checkpoint, oracles, monkeypatch) -> None:
    counts: Counter = Counter()
    ledger = Ledger(monkeypatch)

    for seed in range(FIRST, FIRST + SEQUENCES):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foreign contexts are warned of; that is tested elsewhere
            try:
                play(World(checkpoint, Path(folder), ledger, oracles, counts), random.Random(seed))
            except BaseException as error:
                error.add_note(f"sequence {seed}")
                raise
    # Not vacuous: much was answered, and every kind of misuse was refused.
    assert counts["answered"] > 60, counts
    assert counts["read after a refused write"] >= 3, counts
    for name in {*OPERATIONS} - {
        "new_embedding",
        "persist",
        "change_length",
        "copy_vectors",
        "read_after_refused_write",
    }:
        assert counts[f"refused {name}"] >= 1, (name, counts)
