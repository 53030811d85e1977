"""`keep_plain`: a refit that needs no model, exact; what is kept belongs to the index's documents and to one model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import StorageContext

from cde_retriever import langchain as cde
from cde_retriever.adapters.llama_index.storage import embedded_text, read_context
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.backends.pytorch import TorchBackend
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import FILE_NAME, PlainDocuments
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.lifecycle.refit import plan_refit, refit
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.langchain_corpus import FAISS, load_faiss
from tests.contract.langchain_corpus import corpus as lc_corpus
from tests.contract.llama_index_corpus import chroma, corpus
from tests.contract.test_refit import HEAD
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "head", **HEAD)


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
    embed, texts = TorchBackend.embed, []

    def counted(self: Any, input_ids: Any, *rest: Any, **named: Any) -> Any:
        texts.append(len(input_ids))
        return embed(self, input_ids, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchBackend, "embed", counted)
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
    other = tiny_checkpoint(tmp_path / "other", **(HEAD | {"seed": 1}))
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
    with pytest.raises(ConfigError, match="ChromaVectorStore writes by itself"):
        CDEVectorStoreIndex.from_documents(
            corpus(3), embed_model=CDEEmbedding(head), storage_context=storage, keep_plain=True
        )
    with pytest.raises(ConfigError, match="has no corpus head"):
        cde.from_documents(FAISS, lc_corpus(0), CDEEmbeddings(model_name=checkpoint), keep_plain=True)


def test_langchains_own_store_in_memory_keeps_them_too(head, tmp_path):
    embedding = CDEEmbeddings(model_name=head)
    store = cde.from_documents(InMemoryVectorStore, lc_corpus(0), embedding, keep_plain=True)
    cde.save_local(store, tmp_path / "index")
    kept = PlainDocuments.load(tmp_path / "index", embedding.encoder.identity)
    assert kept.missing([document.page_content for document in lc_corpus(0)]) == []
