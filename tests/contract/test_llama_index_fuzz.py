"""Random sequences of fit, build, persist, load, insert, query and attempted refit: no result under two contexts.

The oracle keeps, for every stored vector, the fingerprint of the encoder that made it (seen at
`ContextualEncoder.encode_documents`, below everything under test). Every answered query must have been embedded under
the fingerprint of each node it returns, and stored vectors and scores must be those an independent encoder recomputes.
"""

import asyncio
import itertools
import random
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import QueryBundle, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from cde_retriever import ContextError, ContextualEncoder
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.llama_index import CDEContextGuard, CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import QUERY, Oracle, chroma, corpus, stored_vector, text_nodes

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

    def __init__(self, checkpoint: Path, folder: Path, ledger: Ledger, oracle: Oracle, counts: Counter) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.ledger, self.oracle, self.counts = ledger, oracle, counts
        self.embeddings = [CDEEmbedding(checkpoint)]
        self.indexes: list[CDEVectorStoreIndex] = []
        self.stores = [chroma()]
        self.folders: list[tuple[Path, BasePydanticVectorStore | None]] = []  # with the external store, if any
        self.bundle = QueryBundle(QUERY)

    def new_embedding(self, _: int, __: int) -> None:
        self.embeddings.append(CDEEmbedding(self.checkpoint))

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

    def judge(self, index: VectorStoreIndex, found, embedding: CDEEmbedding) -> None:
        context = embedding.context
        self.oracle.check(index.vector_store, found, QUERY, context)
        for node in found:
            assert node.metadata[STAMP] == context.fingerprint
            assert context.fingerprint in self.ledger.makers(stored_vector(index.vector_store, node.node))
        self.counts["answered"] += bool(found)
        self.counts["nodes"] += len(found)


OPERATIONS = (
    *("new_embedding", "fit", "fit", "build", "build", "build", "persist", "load", "load"),
    *("open_store", "insert", "insert", "query", "query", "query", "query_stock", "query_stock"),
)
SEQUENCES, STEPS = 24, 24


def play(world: World, rng: random.Random) -> None:
    needs = {"persist": "indexes", "insert": "indexes", "query": "indexes", "load": "folders", "query_stock": "folders"}
    world.build(1, 0)
    for _ in range(STEPS):
        name, a, b = rng.choice(OPERATIONS), rng.randrange(60), rng.randrange(60)
        if name in needs and not getattr(world, needs[name]):
            continue
        try:
            getattr(world, name)(a, b)
        except ContextError:  # refused, as it may be; anything else is a defect
            world.counts[f"refused {name}"] += 1


@pytest.fixture(scope="module")
def oracle(checkpoint) -> Oracle:
    return Oracle(checkpoint)


def test_the_oracle_tells_contexts_apart(checkpoint, oracle) -> None:
    contexts = []
    for seed in range(3):
        embedding = CDEEmbedding(checkpoint)
        contexts.append(embedding.fit([embedded_text(document) for document in corpus(6, seed)]))
    for one, other in itertools.combinations(contexts, 2):
        for document in corpus(6):
            first, second = (oracle.vector(context, "document", document.text) for context in (one, other))
            assert np.abs(first - second).max() > 1e-3  # ten times the tolerance of Oracle.check


def test_no_sequence_gives_a_result_under_two_contexts(checkpoint, oracle, monkeypatch) -> None:
    counts: Counter = Counter()
    ledger = Ledger(monkeypatch)

    for seed in range(SEQUENCES):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foreign contexts are warned of; that is tested elsewhere
            try:
                play(World(checkpoint, Path(folder), ledger, oracle, counts), random.Random(seed))
            except BaseException as error:
                error.add_note(f"sequence {seed}")
                raise
    # Not vacuous: much was answered, and every kind of misuse was refused.
    assert counts["answered"] > 60, counts
    for name in ("fit", "build", "load", "open_store", "insert", "query", "query_stock"):
        assert counts[f"refused {name}"] >= 3, counts
