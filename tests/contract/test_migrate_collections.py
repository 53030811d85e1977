"""`migrate` of collections of Chroma and Qdrant: another one beside the old, whose vectors are taken over."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
import qdrant_client
from langchain_chroma import Chroma
from langchain_qdrant import QdrantVectorStore
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore as QdrantNodes
from qdrant_client.models import Distance, PointStruct, VectorParams
from sentence_transformers import SentenceTransformer

from cde_retriever import langchain as cde
from cde_retriever.adapters.langchain.collection_documents import document_of
from cde_retriever.adapters.llama_index.collection_documents import nodes_in
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.adapters.stamps import DIGEST, STAMP
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.cli.main import main
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, OutputError
from cde_retriever.files.locking import only_writer
from cde_retriever.lifecycle.collection import Collection
from cde_retriever.lifecycle.migrate import migrate
from cde_retriever.lifecycle.refit import confirm_refit, refit, undo_refit
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex, collection_in
from tests.contract.langchain_corpus import corpus as lc_corpus
from tests.contract.llama_index_corpus import SETTINGS, corpus
from tests.contract.test_migrate import StockEmbedding, StockEmbeddings
from tests.killing import forked, killed_at_writes, kills, was_killed
from tests.model_runs import count_texts
from tests.plain_models import save_model

NAME, COUNT = "handbook", 30
LONGEST = 500
"""Seconds that a process may kill migrations, for each kill at ever later writes."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("plain")
    return folder / "model", save_model(folder, normalize=False)


class Stock:
    """A collection that a stock embedding filled through a framework, and the folder of our context."""

    def __init__(self, kind: str, checkpoint: Path, embedding: Any, folder: Path) -> None:
        self.framework, self.store = kind.split("-")
        self.checkpoint, self.folder, self.context = checkpoint, folder, folder / "context"
        if self.store == "chroma":
            self.client: Any = chromadb.PersistentClient(str(folder / "store"), SETTINGS)
        else:
            self.client = qdrant_client.QdrantClient(path=str(folder / "store"))
        self.collection = Collection(self.client, NAME)
        if embedding is None:  # it is there
            return
        if self.framework == "li":
            storage = StorageContext.from_defaults(vector_store=self.nodes(NAME))
            VectorStoreIndex.from_documents(
                corpus(COUNT), embed_model=StockEmbedding(embedding), storage_context=storage
            )
        elif self.store == "chroma":
            Chroma.from_documents(
                lc_corpus(0, COUNT), StockEmbeddings(embedding), client=self.client, collection_name=NAME
            )
        else:
            width = embedding.get_sentence_embedding_dimension()
            self.client.create_collection(NAME, vectors_config=VectorParams(size=width, distance=Distance.COSINE))
            QdrantVectorStore(self.client, NAME, StockEmbeddings(embedding)).add_documents(lc_corpus(0, COUNT))

    def nodes(self, name: str) -> Any:
        """Return LlamaIndex's store."""
        if self.store == "chroma":
            return ChromaVectorStore(chroma_collection=self.client.get_or_create_collection(name))
        return QdrantNodes(name, client=self.client)

    def documents(self, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return embedded text and metadata of each record, by id, without what we add to them."""
        if self.framework == "li":
            rows = [(n.node_id, embedded_text(n), n.metadata) for n in nodes_in(self.collection, name)]
        else:
            found = [document_of(record) for record in self.collection.opened().records(name)]
            rows = [(str(d.id), d.page_content, d.metadata) for d in found]
        return {
            one: (text, {key: value for key, value in metadata.items() if key not in (STAMP, DIGEST)})
            for one, text, metadata in rows
        }

    def vectors(self, name: str, ids: Any) -> np.ndarray:
        return self.collection.opened().vectors(name, list(ids))

    def asked(self, question: str) -> str:
        """Return the text of the best answer, in a store that is opened as a reader does."""
        name = collection_in(self.context, NAME)
        if self.framework == "li":
            index = CDEVectorStoreIndex.from_vector_store(
                self.nodes(name), CDEEmbedding.from_storage(self.context, self.checkpoint), context_dir=self.context
            )
            return embedded_text(index.as_retriever(similarity_top_k=1).retrieve(question)[0].node)
        store = cde.open(
            lambda e: (
                Chroma(name, e, client=self.client)
                if self.store == "chroma"
                else QdrantVectorStore(self.client, name, e)
            ),
            self.context,
            model_name=self.checkpoint,
        )
        if (self.context / "parts_index.safetensors").is_file():
            embedding = cde.CDEEmbeddings(model_name=self.checkpoint, context=self.context)
            return cde.CDERetriever(store=store, embedding=embedding).invoke(question)[0].page_content
        return store.similarity_search(question, k=1)[0].page_content

    def run(self, **settings: Any) -> Any:
        return migrate(self.collection, self.context, model=ModelSpec(str(self.checkpoint)), **settings)


KINDS = ("li-chroma", "li-qdrant", "lc-chroma", "lc-qdrant")


@pytest.fixture
def stock(request, model, tmp_path):
    made = Stock(request.param, *model, tmp_path)
    yield made
    if made.store == "qdrant":
        made.client.close()


every_kind = pytest.mark.parametrize("stock", KINDS, indirect=True)
one_kind = pytest.mark.parametrize("stock", ["lc-chroma"], indirect=True)


@pytest.mark.parametrize("parts", ["one", "both"])
@every_kind
def test_vectors_of_the_same_encoder_are_taken_over_into_another_collection(stock, parts, monkeypatch):
    before = stock.documents(NAME)
    old = stock.vectors(NAME, before)
    assert len(before) == COUNT
    monkeypatch.setattr("cde_retriever.lifecycle.migrate.COMPARED", 5)
    seen = count_texts(monkeypatch)
    done = stock.run(parts=parts)
    monkeypatch.undo()
    assert (done.old, done.documents, done.taken_over) == (NAME, COUNT, COUNT)
    assert sum(seen) <= 5 + 8  # those compared, and what the guards ask a store they meet
    assert done.collection == collection_in(stock.context, NAME) == f"{NAME}-{done.context[:12]}"
    assert stock.documents(NAME) == before
    np.testing.assert_array_equal(stock.vectors(NAME, before), old)
    after = stock.documents(done.collection)
    assert after == before
    encoder = ContextualEncoder.from_pretrained(stock.checkpoint, device="cpu")
    assert encoder.fit_context([text for text, _ in before.values()]).fingerprint == done.context
    expected = encoder.encode_documents(
        [text for text, _ in after.values()], parts="one" if parts == "one" else "dense"
    )
    np.testing.assert_allclose(stock.vectors(done.collection, after), expected, atol=1e-5)
    asked = next(iter(before.values()))[0]
    assert stock.asked(asked) == asked
    assert [path.name for path in stock.folder.iterdir() if "migrate" in path.name] == []


@every_kind
def test_a_stopped_run_leaves_nothing_and_goes_on(stock, monkeypatch):
    before, names = stock.documents(NAME), stock.collection.opened().names()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("cde_retriever.adapters.stored_collection.check_written", full)
    with pytest.raises(OSError, match="no space left"):
        stock.run()
    monkeypatch.undo()
    assert not stock.context.exists()
    assert len(stock.collection.opened().names()) == 2, "what was begun is there"
    done = stock.run()
    assert stock.collection.opened().names() == names | {done.collection}
    assert stock.documents(done.collection) == stock.documents(NAME) == before


def kill_migrations(kind: str, checkpoint: Path, folder: Path) -> int:
    """Kill migrations of a collection at ever later writes; return how many died. As `kill_refits` does."""
    kept = folder / "before.pkl"

    def build() -> None:
        made = Stock(kind, checkpoint, SentenceTransformer(str(checkpoint), device="cpu"), folder)
        kept.write_bytes(pickle.dumps(made.documents(NAME)))

    def check() -> None:
        made, before = Stock(kind, checkpoint, None, folder), pickle.loads(kept.read_bytes())
        done = None if made.context.exists() else made.run()
        name = collection_in(made.context, NAME)
        assert done is None or done.collection == name
        assert made.collection.opened().names() == {NAME, name}
        assert made.documents(name) == made.documents(NAME) == before
        made.collection.opened().delete(name)
        shutil.rmtree(made.context)

    assert not was_killed(forked(build))

    def work(begin: Any) -> None:
        made = Stock(kind, checkpoint, None, folder)
        begin()
        made.run()

    died = 0
    for died in killed_at_writes(work, step=max(1, 6 // kills(1))):  # noqa: B007
        assert not was_killed(forked(check))
    return died


def test_killed_at_any_write_it_leaves_no_new_index_or_a_whole_one(model, tmp_path):
    code = """
import pathlib, sys
from tests.contract.test_migrate_collections import KINDS, kill_migrations
for kind in KINDS:
    folder = pathlib.Path(sys.argv[2]) / kind
    folder.mkdir()
    print(kind, "killed", kill_migrations(kind, pathlib.Path(sys.argv[1]), folder), "times", flush=True)
"""
    command, limit = [sys.executable, "-c", code, str(model[0]), str(tmp_path)], LONGEST * kills(1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(line.split()[0], int(line.split()[2]) > 0) for line in done.stdout.splitlines()] == [
        (kind, True) for kind in KINDS
    ]


@one_kind
def test_the_old_collection_outlives_refits_of_the_new_one(stock, monkeypatch):
    before = stock.documents(NAME)
    first, model = stock.run(), ModelSpec(str(stock.checkpoint))
    store = cde.open(
        lambda e: Chroma(first.collection, e, client=stock.client), stock.context, model_name=stock.checkpoint
    )
    store.add_documents(lc_corpus(1))

    def copies_half(_: Path, folder: Path) -> None:
        folder.mkdir()
        raise OSError("no space left on device")

    monkeypatch.setattr("cde_retriever.lifecycle.shadow.copy_folder", copies_half)
    with pytest.raises(OSError, match="no space left"):
        refit(stock.context, collection=stock.collection, model=model)
    monkeypatch.undo()
    assert not undo_refit(stock.context, collection=stock.collection)
    assert collection_in(stock.context, NAME) == first.collection
    refit(stock.context, collection=stock.collection, model=model)

    def removes_half(path: Path) -> None:
        (path / "collection.json").unlink(missing_ok=True)
        if path.is_dir():
            raise KeyboardInterrupt

    monkeypatch.setattr("cde_retriever.lifecycle.shadow.remove", removes_half)
    with pytest.raises(KeyboardInterrupt):
        confirm_refit(stock.context, collection=stock.collection)
    monkeypatch.undo()
    assert confirm_refit(stock.context, collection=stock.collection)
    assert stock.collection.opened().names() == {NAME, collection_in(stock.context, NAME)}
    assert stock.documents(NAME) == before


@one_kind
def test_vectors_of_another_encoder_are_made_anew(stock, tmp_path):
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other", "mpnet")
    stock.checkpoint = tmp_path / "other" / "model"
    done = stock.run()
    assert (done.documents, done.taken_over) == (COUNT, 0)
    assert done.cosine < 0.9
    asked = lc_corpus(0, COUNT)[3].page_content
    assert stock.asked(asked) == asked


@one_kind
def test_what_cannot_be_migrated_is_refused(stock):
    with only_writer(stock.context.with_name("context.migrate")), pytest.raises(OSError, match="another process"):
        stock.run()
    done = stock.run()
    with pytest.raises(ConfigError, match="there is something at"):
        stock.run()
    again = stock.context.with_name("again")
    model = ModelSpec(str(stock.checkpoint))
    with pytest.raises(ConfigError, match=f"there is a collection '{done.collection}' already"):
        migrate(stock.collection, again, model=model)
    with pytest.raises(ConfigError, match="one of ours already"):
        migrate(Collection(stock.client, done.collection), again, model=model)
    with pytest.raises(ConfigError, match=r"no collection 'hand' in the store, which has \['handbook', "):
        migrate(Collection(stock.client, "hand"), again, model=model)
    stock.client.create_collection("empty", embedding_function=None)
    with pytest.raises(ConfigError, match="'empty' holds no documents"):
        migrate(Collection(stock.client, "empty"), again, model=model)
    assert stock.asked(lc_corpus(0, COUNT)[3].page_content)
    assert not again.exists()


@pytest.mark.parametrize("stock", ["lc-qdrant"], indirect=True)
def test_records_that_neither_framework_wrote_are_refused(stock):
    stock.client.create_collection("bare", vectors_config=VectorParams(size=4, distance=Distance.DOT))
    stock.client.upsert("bare", [PointStruct(id=1, vector=[1, 0, 0, 0], payload={"body": "a"})])
    with pytest.raises(ConfigError, match="record '1' of the collection has neither a text nor a page_content"):
        migrate(Collection(stock.client, "bare"), stock.context, model=ModelSpec(str(stock.checkpoint)))


@one_kind
def test_a_store_that_loses_a_write_is_noticed(stock, monkeypatch):
    upsert = chromadb.Collection.upsert

    def loses(self: Any, ids: Any, **rest: Any) -> Any:
        rest = {key: value[1:] if isinstance(value, list) else value for key, value in rest.items()}
        return upsert(self, ids=list(ids)[1:], **rest)

    monkeypatch.setattr(chromadb.Collection, "upsert", loses)
    with pytest.raises(OutputError, match="the store lost writes"):
        stock.run()
    monkeypatch.undo()
    assert not stock.context.exists()
    assert stock.run().documents == COUNT


@one_kind
def test_the_command_migrates_a_collection(stock, capsys):
    store = ["--chroma", str(stock.folder / "store"), "--collection", NAME]
    command = ["migrate", *store, "-o", str(stock.context), "--model", str(stock.checkpoint)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    done = json.loads(out)
    assert (done["old"], done["taken_over"]) == (NAME, COUNT)
    assert f"collection {done['collection']} holds {COUNT} documents" in err
    assert main([*command, str(stock.folder)]) == 2
    assert "give either OLD" in capsys.readouterr().err
    assert main(["migrate", "-o", str(stock.folder / "new")]) == 2
    assert "give either OLD" in capsys.readouterr().err
