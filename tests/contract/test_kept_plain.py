"""`keep_plain`: a refit that needs no model, exact; what is kept belongs to the index's documents and to one model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import StorageContext
from llama_index.vector_stores.chroma import ChromaVectorStore

from cde_retriever import langchain as cde
from cde_retriever.adapters.langchain.collection_documents import document_of
from cde_retriever.adapters.llama_index.collection_documents import nodes_in
from cde_retriever.adapters.llama_index.storage import embedded_text, read_context
from cde_retriever.adapters.plain_vectors import LOG_NAME, read_plain
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import FILE_NAME, PlainDocuments
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.refit import plan_refit, refit, undo_refit
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex, collection_in
from tests.contract.langchain_corpus import FAISS, load_faiss
from tests.contract.langchain_corpus import corpus as lc_corpus
from tests.contract.llama_index_corpus import SETTINGS, chroma, corpus
from tests.model_runs import count_texts
from tests.tiny import HEADED, tiny_checkpoint


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "head", **HEADED)


@pytest.fixture(scope="module")
def for_queries(tmp_path_factory) -> Path:
    """A checkpoint whose context changes queries alone."""
    settings = HEADED | {"corpus_head": HeadSettings().for_queries().to_dict()}
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "for-queries", **settings)


class LlamaIndex:
    """24 documents in two calls, of which the second comes after the index was opened again."""

    @staticmethod
    def build(checkpoint: Path, folder: Path, parts: str, keep_plain: bool = True) -> None:
        embedding = CDEEmbedding(checkpoint)
        CDEVectorStoreIndex.from_documents(
            corpus(12), embed_model=embedding, parts=parts, keep_plain=keep_plain
        ).persist(folder)
        index = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, checkpoint))
        index.insert_nodes(corpus(12, seed=1))
        index.persist(folder)

    @staticmethod
    def contents(checkpoint: Path, folder: Path) -> tuple[list[str], np.ndarray, Context]:
        """Return texts, vectors and the context."""
        index = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, checkpoint))
        nodes = index.docstore.get_nodes(list(index.index_struct.nodes_dict.values()))
        vectors = index.vector_store.data.embedding_dict
        return [embedded_text(n) for n in nodes], np.array([vectors[n.node_id] for n in nodes]), read_context(folder)

    @staticmethod
    def delete(checkpoint: Path, folder: Path) -> str:
        index = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, checkpoint))
        (node,) = index.docstore.get_nodes([next(iter(index.index_struct.nodes_dict))])
        index.delete_nodes([node.node_id], delete_from_docstore=True)
        index.persist(folder)
        return embedded_text(node)


class LangChain:
    @staticmethod
    def build(checkpoint: Path, folder: Path, parts: str, keep_plain: bool = True) -> None:
        embedding = CDEEmbeddings(model_name=checkpoint)
        store = cde.from_documents(FAISS, lc_corpus(0), embedding, hybrid=parts == "both", keep_plain=keep_plain)
        cde.save_local(store, folder)
        store = cde.open(lambda e: load_faiss(folder, e), folder, model_name=checkpoint)
        store.add_documents(lc_corpus(1))
        cde.save_local(store, folder)

    @staticmethod
    def contents(checkpoint: Path, folder: Path) -> tuple[list[str], np.ndarray, Context]:
        store = cde.open(lambda e: load_faiss(folder, e), folder, model_name=checkpoint)
        places, names = zip(*sorted(store.index_to_docstore_id.items()), strict=True)
        vectors = np.array([store.index.reconstruct(place) for place in places])
        return [d.page_content for d in store.get_by_ids(list(names))], vectors, Context.load(folder)

    @staticmethod
    def delete(checkpoint: Path, folder: Path) -> str:
        store = cde.open(lambda e: load_faiss(folder, e), folder, model_name=checkpoint)
        (document,) = store.get_by_ids([store.index_to_docstore_id[0]])
        store.delete([store.index_to_docstore_id[0]])
        cde.save_local(store, folder)
        return document.page_content


KINDS: tuple[Any, ...] = (LlamaIndex, LangChain)


@contextmanager
def model_reads_no_document() -> Iterator[None]:
    """Assert that the model reads nothing but the question that LangChain's guard asks a store it meets."""
    with pytest.MonkeyPatch.context() as patch:
        texts = count_texts(patch)
        yield
    assert sum(texts) < 12


def run(folder: Path, checkpoint: Path) -> Any:
    return refit(folder, model=ModelSpec(str(checkpoint)), trust_pickle=True)


@pytest.mark.parametrize("parts", ["one", "both"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_refit_needs_no_model_and_is_bit_equal_with_embedding_again(kind, parts, head, tmp_path):
    folder = tmp_path / "index"
    kind.build(head, folder, parts)
    texts, before, old = kind.contents(head, folder)
    with model_reads_no_document():
        done = run(folder, head)
    assert (done.documents, done.embedded, done.kept_plain) == (24, 24, 24)
    same, after, new = kind.contents(head, folder)
    assert same == texts
    assert new.fingerprint == done.new != old.fingerprint
    encoder = ContextualEncoder.from_pretrained(head, device="cpu")
    encoder.set_context(new)
    form = "one" if parts == "one" else "dense"
    again = np.concatenate(
        [encoder.encode_documents(texts[:12], parts=form), encoder.encode_documents(texts[12:], parts=form)]
    )
    assert (after == again).all()
    assert not np.allclose(after, before)
    fresh = ContextualEncoder.from_pretrained(head, device="cpu").fit_context(texts)
    assert fresh.fingerprint == new.fingerprint
    np.testing.assert_allclose(fresh.vectors, new.vectors, atol=1e-6)
    with model_reads_no_document():  # the new index keeps them too
        kind.delete(head, folder)
        assert plan_refit(folder, model=ModelSpec(str(head)), trust_pickle=True).documents == 23


@pytest.mark.parametrize("keep_plain", [False, True])
@pytest.mark.parametrize("parts", ["one", "both"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_refit_of_vectors_that_are_plain_needs_no_model_and_leaves_them(
    kind, parts, keep_plain, for_queries, tmp_path
):
    folder = tmp_path / "index"
    kind.build(for_queries, folder, parts, keep_plain=keep_plain)
    texts, before, old = kind.contents(for_queries, folder)
    with model_reads_no_document():
        plan = plan_refit(folder, model=ModelSpec(str(for_queries)), trust_pickle=True)
        done = run(folder, for_queries)
    assert (plan.cosine, plan.new) == (pytest.approx(1), done.new)
    assert (done.documents, done.embedded, done.kept_plain) == (24, 24, 24)
    same, after, new = kind.contents(for_queries, folder)
    assert (same, after.tolist()) == (texts, before.tolist())
    assert new.fingerprint == done.new != old.fingerprint
    fresh = ContextualEncoder.from_pretrained(for_queries, device="cpu").fit_context(texts)
    assert fresh.fingerprint == new.fingerprint
    np.testing.assert_allclose(fresh.vectors, new.vectors, atol=1e-6)
    assert (folder / FILE_NAME).exists() == keep_plain
    assert undo_refit(folder)
    assert kind.contents(for_queries, folder)[2].fingerprint == old.fingerprint


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_is_kept_unasked_nor_of_deleted_documents(kind, head, tmp_path):
    kind.build(head, tmp_path / "plain", "one", keep_plain=False)
    assert not (tmp_path / "plain" / FILE_NAME).exists()
    assert run(tmp_path / "plain", head).kept_plain == 0
    kind.build(head, tmp_path / "kept", "one")
    identity = ContextualEncoder.from_pretrained(head).identity
    texts, *_ = kind.contents(head, tmp_path / "kept")
    assert PlainDocuments.load(tmp_path / "kept", identity).missing(texts) == []
    gone = kind.delete(head, tmp_path / "kept")
    kept = PlainDocuments.load(tmp_path / "kept", identity)
    assert kept.missing(texts) == [texts.index(gone)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_file_or_one_of_another_model_is_refused(kind, head, tmp_path):
    kind.build(head, tmp_path / "index", "one")
    file = tmp_path / "index" / FILE_NAME
    sound = file.read_bytes()
    (tmp_path / "index" / "checksums.json").unlink(missing_ok=True)
    for damaged in (sound[:-1] + bytes([sound[-1] ^ 1]), sound[:200], b""):
        file.write_bytes(damaged)
        with pytest.raises(ContextFormatError, match="delete it"):
            kind.contents(head, tmp_path / "index")
    other = tiny_checkpoint(tmp_path / "other", **(HEADED | {"seed": 1}))
    kept = PlainDocuments()
    kept.add(["a"], np.ones((1, 32), np.float32))
    kept.save(tmp_path / "index", ["a"], ContextualEncoder.from_pretrained(other).identity)
    with pytest.raises(ContextMismatchError, match="keeps vectors of model"):
        kind.contents(head, tmp_path / "index")


def test_documents_that_nobody_kept_are_embedded_and_kept(head):
    encoder, other = (ContextualEncoder.from_pretrained(head, device="cpu") for _ in range(2))
    encoder.fit_context(["a baron", "kolak", "misim"])
    other.set_context(encoder.context)
    encoder.keep_plain()
    encoder.encode_documents(["baron", "kolak lu"])
    found = encoder.encode_documents(["zevex", "baron", "", "zevex"], parts="both")
    expected = other.encode_documents(["zevex", "baron", "", "zevex"], parts="both")
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-6)
    assert (found.sparse != expected.sparse).nnz == 0
    assert encoder.plain_documents.missing(["zevex", "never seen", ""]) == [1]
    assert encoder.encode_documents([]).shape == (0, encoder.dimension)
    with pytest.raises(TypeError, match="text 1 is int"):
        encoder.encode_documents(["baron", 3])


def test_where_plain_vectors_are_of_no_use_they_are_refused(head, checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="has no corpus head"):
        CDEVectorStoreIndex.from_documents(corpus(3), embed_model=CDEEmbedding(checkpoint), keep_plain=True)
    storage = StorageContext.from_defaults(vector_store=chroma())
    for place in (None, tmp_path / "context.safetensors"):
        with pytest.raises(ConfigError, match="ChromaVectorStore writes by itself, and plain vectors need a place"):
            CDEVectorStoreIndex.from_documents(
                corpus(3), embed_model=CDEEmbedding(head), storage_context=storage, context_dir=place, keep_plain=True
            )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="has no corpus head"):
        cde.from_documents(FAISS, lc_corpus(0), CDEEmbeddings(model_name=checkpoint), keep_plain=True)


class Beside:
    """24 documents in a collection of Chroma, the second half inserted one by one after it was opened again."""

    def __init__(self, framework: str, checkpoint: Path, folder: Path) -> None:
        self.framework, self.checkpoint, self.context = framework, checkpoint, folder / "context"
        self.client = chromadb.PersistentClient(str(folder / "chroma"), SETTINGS)
        self.collection = Collection(self.client, "beside")

    def build(self, keep_plain: bool = True) -> None:
        kept: dict[str, Any] = {"context_dir": self.context, "keep_plain": keep_plain}
        if self.framework == "llama_index":
            store = ChromaVectorStore(chroma_collection=self.client.create_collection("beside"))
            storage = StorageContext.from_defaults(vector_store=store)
            embedding = CDEEmbedding(self.checkpoint)
            CDEVectorStoreIndex.from_documents(corpus(12), embed_model=embedding, storage_context=storage, **kept)
        else:
            embedding = CDEEmbeddings(model_name=self.checkpoint)
            where: dict[str, Any] = {"client": self.client, "collection_name": "beside"}
            cde.from_documents(Chroma, lc_corpus(0), embedding, **kept, **where)

    def open(self) -> Any:
        name = collection_in(self.context, "beside")
        if self.framework == "llama_index":
            store = ChromaVectorStore(chroma_collection=self.client.get_collection(name))
            embedding = CDEEmbedding.from_storage(self.context, self.checkpoint)
            return CDEVectorStoreIndex.from_vector_store(store, embedding, context_dir=self.context)
        return cde.open(lambda e: Chroma(name, e, client=self.client), self.context, model_name=self.checkpoint)

    def add(self, opened: Any, number: int) -> None:
        """Add one of the second twelve."""
        if self.framework == "llama_index":
            opened.insert(corpus(12, seed=1)[number])
        else:
            opened.add_documents([lc_corpus(1)[number]])

    def contents(self) -> tuple[list[str], np.ndarray]:
        """Return texts and vectors."""
        name, client = collection_in(self.context, "beside"), self.collection.opened()
        if self.framework == "llama_index":
            nodes = nodes_in(self.collection, name)
            texts, ids = [embedded_text(node) for node in nodes], [node.node_id for node in nodes]
        else:
            found = [document_of(record) for record in client.records(name)]
            texts, ids = [document.page_content for document in found], [str(document.id) for document in found]
        return texts, client.vectors(name, ids)

    def refit(self) -> Any:
        return refit(self.context, collection=self.collection, model=ModelSpec(str(self.checkpoint)))


@pytest.fixture(params=["llama_index", "langchain"])
def beside(request, head, tmp_path) -> Beside:
    made = Beside(request.param, head, tmp_path)
    made.build()
    return made


def test_beside_a_store_that_writes_by_itself_they_are_kept_as_they_come(beside, head):
    opened = beside.open()
    for number in range(12):
        size = (beside.context / LOG_NAME).stat().st_size
        beside.add(opened, number)
        assert 0 < (beside.context / LOG_NAME).stat().st_size - size < 2000, "what one document takes is appended"
    texts, before = beside.contents()
    with model_reads_no_document():
        done = beside.refit()
    assert (done.documents, done.kept_plain) == (24, 24)
    same, after = beside.contents()
    assert sorted(same) == sorted(texts)
    encoder = ContextualEncoder.from_pretrained(head, device="cpu")
    assert encoder.fit_context(texts).fingerprint == done.new != done.old
    np.testing.assert_allclose(after, encoder.encode_documents(same), atol=1e-6)
    assert not np.allclose(after, before, atol=1e-3)
    kept = read_plain(beside.context, encoder.identity)
    assert kept.count == 24
    assert sorted(path.name for path in beside.context.iterdir() if "plain" in path.name) == [LOG_NAME]


@pytest.mark.parametrize("framework", ["llama_index", "langchain"])
def test_a_collection_of_plain_vectors_gets_a_new_context_without_the_model(framework, for_queries, tmp_path):
    beside = Beside(framework, for_queries, tmp_path)
    beside.build(keep_plain=False)
    opened = beside.open()
    for number in range(12):
        beside.add(opened, number)
    before = dict(zip(*beside.contents(), strict=True))
    with model_reads_no_document():
        done = beside.refit()
    assert (done.documents, done.kept_plain) == (24, 24)
    after = dict(zip(*beside.contents(), strict=True))
    assert {text: row.tolist() for text, row in after.items()} == {text: row.tolist() for text, row in before.items()}
    encoder = ContextualEncoder.from_pretrained(for_queries, device="cpu")
    assert encoder.fit_context(list(after)).fingerprint == done.new != done.old


def test_one_process_at_a_time_adds_and_damage_is_refused(beside, head, monkeypatch):
    first, second = beside.open(), beside.open()
    beside.add(first, 0)
    texts, _ = beside.contents()
    with pytest.raises(ContextMismatchError, match="was written by another process"):
        beside.add(second, 1)
    assert beside.contents()[0] == texts, "nothing was stored of it"

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("cde_retriever.files.appending.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        beside.add(first, 1)
    monkeypatch.undo()
    assert beside.contents()[0] == texts
    beside.add(first, 1)
    file = beside.context / LOG_NAME
    file.write_bytes(file.read_bytes() + b"of a killed process")
    identity = ContextualEncoder.from_pretrained(head).identity
    assert read_plain(beside.context, identity).count == 14
    beside.add(beside.open(), 2)
    assert read_plain(beside.context, identity).count == 15
    sound = bytearray(file.read_bytes())
    sound[len(sound) // 2] ^= 1
    file.write_bytes(sound)
    with pytest.raises(ContextFormatError, match="delete it"):
        beside.open()
    file.unlink()
    assert beside.refit().kept_plain == 0


def test_langchains_own_store_in_memory_keeps_them_too(head, tmp_path):
    embedding = CDEEmbeddings(model_name=head)
    store = cde.from_documents(InMemoryVectorStore, lc_corpus(0), embedding, keep_plain=True)
    cde.save_local(store, tmp_path / "index")
    kept = PlainDocuments.load(tmp_path / "index", embedding.encoder.identity)
    assert kept.missing([document.page_content for document in lc_corpus(0)]) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_without_kept_vectors_the_model_runs_once_over_a_document(kind, head, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    kind.build(head, folder, "one", keep_plain=False)
    texts = count_texts(monkeypatch)
    done = run(folder, head)
    assert (done.documents, done.embedded, done.kept_plain) == (24, 24, 0)
    assert 24 <= sum(texts) < 36  # and what LangChain's guard asks a store it meets
