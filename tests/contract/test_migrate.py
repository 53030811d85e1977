"""`migrate`: an index of another embedding becomes ours, without the model where that embedding is our encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from sentence_transformers import SentenceTransformer

from cde_retriever import langchain as cde
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.cli.main import main
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import FILE_NAME
from cde_retriever.errors import ConfigError, TruncationWarning
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.lifecycle.kept_vectors import KeptVectors
from cde_retriever.lifecycle.migrate import migrate
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.langchain_corpus import FAISS, load_faiss
from tests.contract.langchain_corpus import corpus as lc_corpus
from tests.contract.llama_index_corpus import corpus
from tests.model_runs import count_texts
from tests.plain_models import save_model

COUNT = 30


class StockEmbedding(BaseEmbedding):
    """What `HuggingFaceEmbedding` does: a sentence-transformers model asked for unit vectors."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self._model = model

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._model.encode([text], normalize_embeddings=True)[0].tolist()

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class StockEmbeddings(Embeddings):
    """What `HuggingFaceEmbeddings` does: newlines become spaces, vectors keep their lengths."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model.encode([text.replace("\n", " ") for text in texts]).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, SentenceTransformer]:
    folder = tmp_path_factory.mktemp("plain")
    return folder / "model", save_model(folder, normalize=False)


class LlamaIndex:
    @staticmethod
    def build(model: SentenceTransformer, folder: Path) -> None:
        documents = corpus(COUNT)
        VectorStoreIndex.from_documents(documents, embed_model=StockEmbedding(model)).storage_context.persist(folder)

    @staticmethod
    def contents(checkpoint: Path, folder: Path) -> dict[str, tuple[str, Any, list[float]]]:
        """Return text, metadata and vector of each node, by id."""
        index = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, checkpoint))
        vectors = index.vector_store.data.embedding_dict
        nodes = index.docstore.get_nodes(list(vectors))
        return {n.node_id: (embedded_text(n), n.metadata["file_name"], vectors[n.node_id]) for n in nodes}

    @staticmethod
    def before(folder: Path) -> dict[str, tuple[str, Any]]:
        nodes = StorageContext.from_defaults(persist_dir=str(folder)).docstore.docs.values()
        return {n.node_id: (embedded_text(n), n.metadata["file_name"]) for n in nodes}


class LangChain:
    @staticmethod
    def build(model: SentenceTransformer, folder: Path) -> None:
        FAISS.from_documents(lc_corpus(0, COUNT), StockEmbeddings(model)).save_local(str(folder))

    @staticmethod
    def contents(checkpoint: Path, folder: Path) -> dict[str, tuple[str, Any, list[float]]]:
        store = cde.open(lambda e: load_faiss(folder, e), folder, model_name=checkpoint)
        places = store.index_to_docstore_id.items()
        found = [(name, store.get_by_ids([name])[0], store.index.reconstruct(place).tolist()) for place, name in places]
        return {name: (d.page_content, d.metadata["source"], vector) for name, d, vector in found}

    @staticmethod
    def before(folder: Path) -> dict[str, tuple[str, Any]]:
        store = load_faiss(folder, CDEEmbeddings())
        documents = store.get_by_ids(list(store.index_to_docstore_id.values()))
        return {d.id: (d.page_content, d.metadata["source"]) for d in documents}


KINDS: tuple[Any, ...] = (LlamaIndex, LangChain)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def stock(request, model, tmp_path) -> tuple[Any, Path]:
    """A kind of index, and the folder of one that a stock embedding made."""
    request.param.build(model[1], tmp_path / "old")
    return request.param, tmp_path / "old"


@pytest.mark.parametrize("parts", ["one", "both"])
def test_vectors_of_the_same_encoder_are_taken_over(parts, stock, model, tmp_path, monkeypatch):
    kind, old = stock
    before, files = kind.before(old), {f.name: f.read_bytes() for f in old.iterdir()}
    monkeypatch.setattr("cde_retriever.lifecycle.migrate.COMPARED", 5)
    seen = count_texts(monkeypatch)
    done = migrate(old, tmp_path / "new", model=ModelSpec(str(model[0])), parts=parts, trust_pickle=True)
    monkeypatch.undo()
    assert (done.documents, done.taken_over) == (COUNT, COUNT)
    assert done.cosine > 0.9999
    assert sum(seen) <= 5 + 4  # those compared, and the questions that LangChain's guard asks a store it meets
    assert {f.name: f.read_bytes() for f in old.iterdir()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    assert not (tmp_path / "new" / FILE_NAME).exists()
    after = kind.contents(model[0], tmp_path / "new")
    assert {name: (text, metadata) for name, (text, metadata, _) in after.items()} == before
    encoder = ContextualEncoder.from_pretrained(model[0], device="cpu")
    assert encoder.fit_context([text for text, _ in before.values()]).fingerprint == done.context
    form = "one" if parts == "one" else "dense"
    expected = encoder.encode_documents([text for text, *_ in after.values()], parts=form)
    np.testing.assert_allclose(np.array([vector for *_, vector in after.values()]), expected, atol=1e-5)


def test_vectors_of_another_encoder_are_made_anew_and_a_stopped_run_goes_on(stock, tmp_path, monkeypatch):
    kind, old = stock
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other", "mpnet")
    other = tmp_path / "other" / "model"
    monkeypatch.setattr("cde_retriever.lifecycle.kept_vectors.CHUNK", 10)
    made, chunk = [], KeptVectors._chunk

    def stops(self: Any, texts: list[str], role: str) -> Any:
        if len(made) == 2:
            raise OSError("no space left on device")
        made.append(texts)
        return chunk(self, texts, role)

    monkeypatch.setattr(KeptVectors, "_chunk", stops)
    arguments: dict[str, Any] = {"model": ModelSpec(str(other)), "trust_pickle": True, "keep_plain": True}
    with pytest.raises(OSError, match="no space left"):
        migrate(old, tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(KeptVectors, "_chunk", chunk)
    seen = count_texts(monkeypatch)
    done = migrate(old, tmp_path / "new", **arguments)
    assert (done.documents, done.taken_over) == (COUNT, 0)
    assert done.cosine < 0.9
    assert sum(seen) <= COUNT + 10 + 4  # compared, and the third part
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "other"]
    assert (tmp_path / "new" / FILE_NAME).is_file()
    after = kind.contents(other, tmp_path / "new")
    encoder = ContextualEncoder.from_pretrained(other, device="cpu")
    encoder.fit_context([text for text, _ in kind.before(old).values()])
    form = "dense" if kind is LlamaIndex else "one"
    expected = encoder.encode_documents([text for text, *_ in after.values()], parts=form)
    np.testing.assert_allclose(np.array([vector for *_, vector in after.values()]), expected, atol=1e-5)


@pytest.mark.parametrize("reversed_vectors", [False, True], ids=["taken over", "embedded"])
def test_texts_that_are_cut_are_told_once_with_what_a_migration_can_do(reversed_vectors, model, tmp_path):
    old = tmp_path / "old"
    nodes = [TextNode(text=f"baron {number} kolak " * 40) for number in range(6)]
    VectorStoreIndex(nodes, embed_model=StockEmbedding(model[1])).storage_context.persist(old)
    if reversed_vectors:
        file = old / "default__vector_store.json"
        content = json.loads(file.read_text())
        content["embedding_dict"] = {name: vector[::-1] for name, vector in content["embedding_dict"].items()}
        file.write_text(json.dumps(content))
    with pytest.warns(TruncationWarning) as told:
        done = migrate(old, tmp_path / "new", model=ModelSpec(str(model[0])))
    assert done.taken_over == (0 if reversed_vectors else 6)
    said = [str(warning.message) for warning in told if issubclass(warning.category, TruncationWarning)]
    assert len(said) == 1
    assert said[0].startswith("6 of 6 texts are longer than the 64 tokens this model reads")
    assert said[0].endswith(
        "in a migration: read them whole with --long-texts windows, or build a new index of the "
        "documents that they came from, which splits them to fit"
    )


def test_one_foreign_vector_among_those_compared_is_enough(model, tmp_path):
    LlamaIndex.build(model[1], tmp_path / "old")
    file = tmp_path / "old" / "default__vector_store.json"
    content = json.loads(file.read_text())
    longest = max(content["text_id_to_ref_doc_id"], key=lambda name: len(LlamaIndex.before(file.parent)[name][0]))
    content["embedding_dict"][longest] = content["embedding_dict"][longest][::-1]
    file.write_text(json.dumps(content))
    done = migrate(tmp_path / "old", tmp_path / "new", model=ModelSpec(str(model[0])))
    assert done.taken_over == 0
    assert done.cosine < 0.99


def test_models_without_a_corpus_head_embed_all(checkpoint, model, tmp_path):
    LlamaIndex.build(model[1], tmp_path / "old")
    done = migrate(tmp_path / "old", tmp_path / "new", model=ModelSpec(str(checkpoint)))
    assert (done.taken_over, done.cosine) == (0, None)
    assert LlamaIndex.contents(checkpoint, tmp_path / "new").keys() == LlamaIndex.before(tmp_path / "old").keys()
    with pytest.raises(ConfigError, match="has no corpus head"):
        migrate(tmp_path / "old", tmp_path / "kept", model=ModelSpec(str(checkpoint)), keep_plain=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_the_command_says_what_it_did(stock, model, tmp_path, capsys):
    _, old = stock
    trusted = "--allow-dangerous-deserialization"
    command = ["migrate", str(old), "-o", str(tmp_path / "new"), "--model", str(model[0])]
    assert main([*command, trusted]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["taken_over"] == COUNT
    assert "were taken over: 30 of them agree with the model's" in err
    assert main([*command, trusted]) == 2
    assert "give the folder of a new index" in capsys.readouterr().err


def test_what_cannot_be_migrated_is_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index at"):
        migrate(tmp_path / "none", tmp_path / "new")
    LangChain.build(model[1], tmp_path / "faiss")
    with pytest.raises(ConfigError, match="in a pickle"):
        migrate(tmp_path / "faiss", tmp_path / "new", model=ModelSpec(str(model[0])))
    LlamaIndex.build(model[1], tmp_path / "old")
    spec = ModelSpec(str(model[0]))
    migrate(tmp_path / "old", tmp_path / "ours", model=spec)
    with pytest.raises(ConfigError, match="an index of ours already"):
        migrate(tmp_path / "ours", tmp_path / "new", model=spec)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "old"))
    second = VectorStoreIndex([TextNode(text="b")], storage_context=storage, embed_model=StockEmbedding(model[1]))
    second.storage_context.persist(tmp_path / "two")
    with pytest.raises(ConfigError, match="holds 2 vector indexes"):
        migrate(tmp_path / "two", tmp_path / "new", model=spec)
    VectorStoreIndex([], embed_model=StockEmbedding(model[1])).storage_context.persist(tmp_path / "empty")
    with pytest.raises(ConfigError, match="holds no documents"):
        migrate(tmp_path / "empty", tmp_path / "new", model=spec)
    (tmp_path / "two" / "docstore.json").write_text("{")
    with pytest.raises(ConfigError, match="two holds an index that cannot be read"):
        migrate(tmp_path / "two", tmp_path / "new", model=spec)
    assert not (tmp_path / "new").exists()
