"""Random lives of LangChain indexes: no search ever returns a result computed under two contexts.

A machine builds, extends, persists, copies and opens stores of several corpora, tries to refit, to open them under
wrong contexts, to swap what they embed with, to put files and caches of one under another and to mix them, and searches
them all the while. Searches may raise `ContextMismatchError`; what they return
is judged by an oracle that knows nothing of stamps: an encoder of its own embeds the returned texts and the query
under the context of the embedding that was asked, and compares with the stored vectors and the score.
"""

import asyncio
import contextlib
import copy
import os
import pickle
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from langchain_core.documents import Document
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore

from cde_retriever import langchain as cde
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ContextError, ContextMismatchError, ContextNotFittedError
from cde_retriever.langchain import CDEEmbeddings, CDERetriever, from_documents, guard, stamp
from tests.contract.langchain_corpus import FAISS, write_into_faiss
from tests.tiny import documents as made_up
from tests.tiny import small_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_classic.embeddings import CacheBackedEmbeddings

CUT = 12
FILES = ("index.faiss", "index.pkl", "store.json", "context.safetensors", "checksums.json")
BITS = st.integers(0, 7)
CORPORA = [[Document(text) for text in made_up(12, seed)] for seed in range(3)]
QUERIES = ["baron", "kolak mi", "luron zedor tivex", made_up(1, seed=1)[0]]
TOLERANCE = 1e-4
"""Far above rounding; `test_the_oracle_tells_contexts_apart` holds contexts well above it."""

SEED = os.environ.get("CDE_SEED")
"""A long run: CDE_SEQUENCES=1000 CDE_SEED=1 CDE_STEPS=12, number of sequences, their seed, operations in each."""
SETTINGS = settings(
    max_examples=int(os.environ.get("CDE_SEQUENCES", "25")),
    stateful_step_count=int(os.environ.get("CDE_STEPS", "25")),
    deadline=None,
    derandomize=SEED is None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

corpora = st.sampled_from(CORPORA)
store_classes = st.sampled_from([InMemoryVectorStore, FAISS])


Disk = tuple[type, Path, str, int | None]
"""Class of a store, where it is, its context's fingerprint, and how many numbers its vectors keep."""


class Live:
    """A guarded store in use, and the context its embedding had when it was made."""

    def __init__(self, store: Any, embedding: CDEEmbeddings) -> None:
        self.store, self.embedding, self.context = store, embedding, embedding.context

    def copied(self) -> Any:
        """Return the store as another process gets it; a cache cannot be pickled, and copies share it."""
        if isinstance(self.store.embeddings, CDEEmbeddings):
            return pickle.loads(pickle.dumps(self.store))
        twin = copy.copy(self.store)
        twin.store = copy.deepcopy(self.store.store)
        return twin

    def vectors(self) -> dict[str, list[np.ndarray]]:
        """Return every stored vector by text."""
        found: dict[str, list[np.ndarray]] = {}
        if isinstance(self.store, InMemoryVectorStore):
            for entry in self.store.store.values():
                found.setdefault(entry["text"], []).append(np.array(entry["vector"]))
        else:
            for row, key in self.store.index_to_docstore_id.items():
                text = self.store.docstore._dict[key].page_content
                found.setdefault(text, []).append(self.store.index.reconstruct(row))
        return found

    def cosine(self, score: float) -> float:
        """Return a score of the store as cosine; FAISS gives squared distances."""
        return score if isinstance(self.store, InMemoryVectorStore) else 1 - score / 2


class Indexes(RuleBasedStateMachine):
    """Corpora, contexts, stores in use, and stores on disk."""

    checkpoint: Path
    oracle: ContextualEncoder
    cutting_oracle: ContextualEncoder

    lives = Bundle("lives")
    disks = Bundle("disks")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.count = 0
        self.known: list[Live] = []
        self.bytes = InMemoryByteStore()

    def teardown(self) -> None:
        self.folder.cleanup()

    def new_folder(self) -> Path:
        self.count += 1
        return Path(self.folder.name) / str(self.count)

    def embedding(self, truncate_dim: int | None = None) -> CDEEmbeddings:
        return CDEEmbeddings(model_name=self.checkpoint, truncate_dim=truncate_dim)

    def live(self, store: Any, embedding: CDEEmbeddings) -> Live:
        self.known.append(Live(store, embedding))
        return self.known[-1]

    def oracle_under(self, live: Live) -> ContextualEncoder:
        oracle = self.oracle if live.embedding.truncate_dim is None else self.cutting_oracle
        oracle.set_context(live.context)
        return oracle

    # Building and extending

    @initialize(target=lives)
    def two_indexes(self) -> Any:
        pairs = zip((InMemoryVectorStore, FAISS), CORPORA, strict=False)
        return multiple(*(self.build(store_class, documents) for store_class, documents in pairs))

    @rule(target=lives, store_class=store_classes, documents=corpora)
    def build(self, store_class: Any, documents: list[Document]) -> Live:
        embedding = self.embedding()
        return self.live(from_documents(store_class, documents, embedding), embedding)

    @rule(target=lives, store_class=store_classes, documents=corpora)
    def build_by_hand(self, store_class: Any, documents: list[Document]) -> Live:
        embedding = self.embedding()
        with pytest.raises(ContextNotFittedError):
            store_class.from_documents(documents, embedding)
        embedding.fit(documents)
        store = store_class.from_documents(stamp(documents, embedding), embedding)
        return self.live(guard(store, embedding), embedding)

    @rule(target=lives, live=lives, store_class=store_classes, documents=corpora)
    def build_with_an_embedding_in_use(self, live: Live, store_class: Any, documents: list[Document]) -> Live:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a foreign corpus warns
            store = from_documents(store_class, documents, live.embedding)
        return self.live(store, live.embedding)

    @rule(live=lives, documents=corpora, texts=st.booleans())
    def add(self, live: Live, documents: list[Document], texts: bool) -> None:
        with contextlib.suppress(ContextMismatchError):  # somebody wrote behind its back before its first write
            if texts:
                live.store.add_texts(f"more {d.page_content}" for d in documents[:3])
            else:
                live.store.add_documents(documents[:3])

    @rule(live=lives, other=lives)
    def add_what_another_store_returned(self, live: Live, other: Live) -> None:
        try:
            found = other.store.similarity_search(QUERIES[0], k=2)
        except ContextMismatchError:
            return
        with contextlib.suppress(ContextMismatchError):  # as in `add`
            live.store.add_documents([Document(d.page_content, metadata=d.metadata) for d in found])

    # Misuse

    @rule(live=lives, documents=corpora)
    def refit(self, live: Live, documents: list[Document]) -> None:
        expected = self.embedding().fit(documents).fingerprint
        if expected == live.context.fingerprint:
            assert live.embedding.fit(documents).fingerprint == expected
        else:
            with pytest.raises(ContextMismatchError):
                live.embedding.fit(documents)

    @rule(live=lives, documents=corpora, stamped=st.booleans())
    def write_behind_its_back(self, live: Live, documents: list[Document], stamped: bool) -> None:
        """Another program adds to the same data under its own context, with this package's stamp or without."""
        writer = self.embedding(live.embedding.truncate_dim)
        writer.fit(documents)
        added = stamp(documents[:2], writer) if stamped else documents[:2]
        texts, metadatas = [d.page_content for d in added], [d.metadata for d in added]
        if isinstance(live.store, InMemoryVectorStore):
            twin = InMemoryVectorStore(writer)
            twin.store = live.store.store
            twin.add_texts(texts, metadatas)
        else:
            write_into_faiss(live.store, added, writer)

    @rule(live=lives, other=lives)
    def merge(self, live: Live, other: Live) -> None:
        if live.embedding.dimension != other.embedding.dimension:
            return
        if isinstance(live.store, InMemoryVectorStore) and isinstance(other.store, InMemoryVectorStore):
            live.store.store |= other.store.store
        elif isinstance(live.store, FAISS) and isinstance(other.store, FAISS) and live is not other:
            copied = other.copied()
            if not set(copied.index_to_docstore_id.values()) & set(live.store.index_to_docstore_id.values()):
                with contextlib.suppress(ContextMismatchError):
                    live.store.merge_from(copied)

    @rule(live=lives, other=lives, documents=corpora)
    def swap_the_embedding_and_swap_it_back(self, live: Live, other: Live, documents: list[Document]) -> None:
        """Another embedding neither answers nor writes while it is there, and leaves nothing behind."""
        name = "embedding" if isinstance(live.store, InMemoryVectorStore) else "embedding_function"
        own = getattr(live.store, name)
        before = len(live.vectors())
        setattr(live.store, name, other.embedding)
        if live.embedding.stamp == other.embedding.stamp:
            setattr(live.store, name, own)
            return
        for use in (
            lambda: live.store.similarity_search(QUERIES[0]),
            lambda: live.store.add_texts(d.page_content for d in documents[:2]),
            lambda: asyncio.run(live.store.aadd_documents(documents[:2])),
        ):
            with pytest.raises(ContextMismatchError):
                use()
        setattr(live.store, name, own)
        assert len(live.vectors()) == before

    @rule(live=lives, other=lives, k=st.integers(1, 20))
    def search_by_a_vector_of_another(self, live: Live, other: Live, k: int) -> None:
        vector = other.embedding.embed_query(QUERIES[0])
        try:
            found = live.store.similarity_search_by_vector(vector, k=k)
        except ContextMismatchError:
            return
        assert live.embedding.stamp == other.embedding.stamp
        self.judge(live, found, self.oracle_under(live))

    @rule(live=lives, documents=corpora)
    def another_corpus_is_refused_by_the_same_store(self, live: Live, documents: list[Document]) -> None:
        """Built with the class of a store, and over its data; a refused write leaves readers as they were."""
        writer = self.embedding(live.embedding.truncate_dim)
        writer.fit(documents)
        if writer.context_fingerprint == live.context.fingerprint or not isinstance(live.store, InMemoryVectorStore):
            return
        before = copy.deepcopy(live.store.store)
        twin = InMemoryVectorStore(writer)
        twin.store = live.store.store
        try:
            guard(twin, writer).add_documents(documents[:2])
        except ContextMismatchError:
            assert live.store.store == before

    @rule(target=lives, live=lives, documents=corpora, shared=st.booleans())
    def build_behind_a_cache(self, live: Live, documents: list[Document], shared: bool) -> Any:
        """All caches of a run share one byte store, under namespaces of their own or under that of another."""
        embedding = self.embedding()
        embedding.fit(documents)
        namespace = live.embedding.cache_namespace if shared else embedding.cache_namespace
        cache = CacheBackedEmbeddings.from_bytes_store(embedding, self.bytes, namespace=namespace, key_encoder="sha256")
        try:
            store = guard(InMemoryVectorStore(cache), embedding)
        except ContextMismatchError:
            return multiple()
        store.add_documents(documents)
        return self.live(store, embedding)

    @rule(target=lives, live=lives, documents=corpora)
    def keep_fewer_numbers(self, live: Live, documents: list[Document]) -> Any:
        """Vectors of another size under the context of an index get a store of their own, and no entry to its."""
        cut = CDEEmbeddings(model_name=self.checkpoint, context=live.context, truncate_dim=CUT)
        if live.embedding.truncate_dim is None:
            with pytest.raises(ContextMismatchError):
                guard(live.store, cut)
            twin = live.copied()
            name = "embedding" if isinstance(twin, InMemoryVectorStore) else "embedding_function"
            setattr(twin, name, cut)
            with pytest.raises(ContextMismatchError):
                twin.similarity_search(QUERIES[0])
        store = guard(InMemoryVectorStore(cut), cut)
        store.add_documents(documents)
        return self.live(store, cut)

    # Disk

    @rule(target=disks, live=lives)
    def persist(self, live: Live) -> Disk:
        folder = self.new_folder()
        cde.save_local(live.store, folder)
        kind = InMemoryVectorStore if isinstance(live.store, InMemoryVectorStore) else FAISS
        return kind, folder, live.context.fingerprint, live.embedding.truncate_dim

    def opener(self, disk: Disk) -> Any:
        if disk[0] is InMemoryVectorStore:
            return lambda e: InMemoryVectorStore.load(str(disk[1] / "store.json"), e)
        return lambda e: FAISS.load_local(str(disk[1]), e, allow_dangerous_deserialization=True)

    @rule(target=lives, disk=disks)
    def open_right(self, disk: Disk) -> Any:
        embedding = self.embedding(disk[3])
        try:
            store = cde.open(self.opener(disk), disk[1], embedding=embedding)
        except ContextMismatchError:
            return multiple()  # somebody wrote behind its back before it was persisted
        assert embedding.context_fingerprint == disk[2]
        return self.live(store, embedding)

    @rule(target=lives, disk=disks, other=disks)
    def open_with_the_context_of_another(self, disk: Disk, other: Disk) -> Any:
        embedding = self.embedding()
        try:
            store = cde.open(self.opener(disk), other[1], embedding=embedding)
        except ContextMismatchError:
            return multiple()
        return self.live(store, embedding)

    @rule(live=lives, other=lives)
    def open_with_an_embedding_bound_elsewhere(self, live: Live, other: Live) -> None:
        if live.context.fingerprint != other.context.fingerprint:
            with pytest.raises(ContextMismatchError):
                cde.open(lambda _: live.store, live.context, embedding=other.embedding)
            with pytest.raises(ContextMismatchError):
                guard(live.store, other.embedding)

    @rule(target=lives, disk=disks, live=lives)
    def open_with_an_opener_that_ignores_its_embedding(self, disk: Disk, live: Live) -> Any:
        embedding = self.embedding()
        try:
            store = cde.open(lambda _: self.opener(disk)(live.embedding), disk[1], embedding=embedding)
        except ContextMismatchError:
            return multiple()
        return self.live(store, embedding)

    @rule(target=lives, live=consumes(lives))
    def move_to_another_process(self, live: Live) -> Live:
        store = live.copied()
        found = store.embeddings
        return self.live(store, getattr(found, "underlying_embeddings", found))

    @rule(target=lives, disk=disks, other=disks, names=st.sets(st.sampled_from(FILES), min_size=1))
    def copy_files_of_another(self, disk: Disk, other: Disk, names: set[str]) -> Any:
        """Some files of one folder put into a copy of another one, the record of checksums among them or not."""
        folder = self.copied(disk)
        for name in names:
            if (other[1] / name).is_file():
                shutil.copy(other[1] / name, folder)
        return self.open_right_or_not_at_all(disk, folder)

    @rule(target=lives, disk=disks)
    def lose_the_checksums(self, disk: Disk) -> Any:
        folder = self.copied(disk)
        (folder / "checksums.json").unlink()
        return self.open_right_or_not_at_all(disk, folder)

    @rule(target=lives, disk=disks, name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=BITS)
    def flip_a_bit(self, disk: Disk, name: str, place: float, bit: int) -> Any:
        """A damaged file is refused; a record of checksums may be as good as before, as where it is blank."""
        folder = self.copied(disk)
        if not (folder / name).is_file():
            return multiple()
        data = bytearray((folder / name).read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        (folder / name).write_bytes(data)
        if name == "checksums.json":
            return self.open_right_or_not_at_all(disk, folder)
        with pytest.raises(ContextError):
            cde.open(self.opener((disk[0], folder, *disk[2:])), folder, embedding=self.embedding(disk[3]))
        return multiple()

    def copied(self, disk: Disk) -> Path:
        return shutil.copytree(disk[1], self.new_folder())

    def open_right_or_not_at_all(self, disk: Disk, folder: Path) -> Any:
        embedding = self.embedding(disk[3])
        try:
            store = cde.open(self.opener((disk[0], folder, *disk[2:])), folder, embedding=embedding)
        except ContextError:
            return multiple()
        return self.live(store, embedding)

    @rule(disk=disks, live=lives)
    def open_with_stock_faiss(self, disk: Disk, live: Live) -> None:
        if disk[0] is FAISS:
            stock = self.opener(disk)(live.embedding)
            with pytest.raises((ContextMismatchError, AssertionError)):  # FAISS asserts that widths are equal
                stock.similarity_search(QUERIES[0])

    # Searching

    @rule(live=lives, query=st.sampled_from(QUERIES), k=st.integers(1, 40))
    def search(self, live: Live, query: str, k: int) -> None:
        try:
            found = live.store.similarity_search_with_score(query, k=k)
        except ContextMismatchError:
            return
        encoder = self.oracle_under(live)
        asked = encoder.encode_queries([query])[0]
        self.judge(live, [document for document, _ in found], encoder)
        for document, score in found:
            expected = encoder.encode_documents([document.page_content])[0] @ asked
            assert abs(live.cosine(score) - expected) < TOLERANCE

    @rule(live=lives, other=lives, query=st.sampled_from(QUERIES), k=st.integers(1, 10), later=st.booleans())
    def search_with_a_retriever(self, live: Live, other: Live, query: str, k: int, later: bool) -> None:
        retriever = CDERetriever(store=live.store, embedding=other.embedding, k=k)
        try:
            found = asyncio.run(retriever.ainvoke(query)) if later else retriever.invoke(query)
        except ContextMismatchError:
            return
        assert live.embedding.stamp == other.embedding.stamp
        self.judge(live, found, self.oracle_under(other))

    @rule(live=lives, query=st.sampled_from(QUERIES), how=st.sampled_from(["similarity", "mmr"]))
    def search_with_langchains_retriever(self, live: Live, query: str, how: str) -> None:
        try:
            found = live.store.as_retriever(search_type=how).invoke(query)
        except ContextMismatchError:
            return
        self.judge(live, found, self.oracle_under(live))

    def judge(self, live: Live, found: list[Document], encoder: ContextualEncoder) -> None:
        """Every returned document is stored with the vector it has under this context."""
        assert found
        stored = live.vectors()
        for document in found:
            expected = encoder.encode_documents([document.page_content])[0]
            distances = [np.abs(vector - expected).max() for vector in stored[document.page_content]]
            assert min(distances) < TOLERANCE

    @invariant()
    def contexts_are_for_life(self) -> None:
        for live in self.known:
            assert live.embedding.context is live.context


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model of one layer: thousands of sequences wait for it."""
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture
def machine(checkpoint: Path) -> type[Indexes]:
    oracle = ContextualEncoder.from_pretrained(checkpoint)
    oracles = {"oracle": oracle, "cutting_oracle": oracle.fork(truncate_dim=CUT)}
    machine = type("Machine", (Indexes,), {"checkpoint": checkpoint, **oracles})
    return machine if SEED is None else seed(int(SEED))(machine)


def test_the_oracle_tells_contexts_apart(checkpoint: Path) -> None:
    encoder = ContextualEncoder.from_pretrained(checkpoint)
    texts = [d.page_content for documents in CORPORA for d in documents]
    vectors = []
    for documents in CORPORA:
        encoder.fit_context(d.page_content for d in documents)
        vectors.append(np.stack([encoder.encode_documents(texts), encoder.encode_queries(texts)]))
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(vectors[one] - vectors[two]).max(axis=-1).min() > 10 * TOLERANCE


def test_no_result_is_computed_under_two_contexts(machine: type[Indexes]) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


def test_the_fuzz_test_would_notice_an_unguarded_store(machine: type[Indexes], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("guard", "first_look", "retriever"):
        monkeypatch.setattr(f"cde_retriever.adapters.langchain.{module}.check_stamps", lambda results, _: results)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=settings(SETTINGS, phases=[Phase.generate]))
