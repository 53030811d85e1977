"""`refit` of collections of Chroma and Qdrant: another collection, one exchange, old or new for every reader."""

import asyncio
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
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from llama_index.core import StorageContext
from llama_index.vector_stores.chroma import ChromaVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore as QdrantNodes
from qdrant_client.local.local_collection import LocalCollection

from cde_retriever import langchain as cde
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.cli.main import main
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextMismatchError, OutputError
from cde_retriever.langchain import CDEEmbeddings, CDESparseEmbeddings
from cde_retriever.lifecycle.collection import ChromaClient, Collection, write_collection
from cde_retriever.lifecycle.refit import confirm_refit, plan_refit, refit, undo_refit
from cde_retriever.lifecycle.shadow import Shadow
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex, collection_in, sparse_functions
from tests.contract.langchain_corpus import QUERY
from tests.contract.langchain_corpus import corpus as lc_corpus
from tests.contract.llama_index_corpus import SETTINGS, corpus
from tests.killing import forked, killed, killed_at_writes, kills, was_killed
from tests.readers import seen_meanwhile
from tests.tiny import HEADED, tiny_checkpoint

NAME = "handbook"
LONGEST = 500
"""Seconds that a process may kill refits, for each kill at ever later writes."""
COSINE = {"hnsw:space": "cosine"}


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "head", **HEADED)


class Place:
    """A collection of one store, filled by one framework in one form, in a folder, and the folder of its context."""

    def __init__(self, kind: str, checkpoint: Path, folder: Path) -> None:
        self.framework, self.store, self.form = kind.split("-")
        self.checkpoint, self.folder, self.context = checkpoint, folder, folder / "context"
        self.model = ModelSpec(str(checkpoint))
        self.connect()

    def connect(self) -> None:
        if self.store == "chroma":
            self.client: Any = chromadb.PersistentClient(str(self.folder / "chroma"), SETTINGS)
        else:
            self.client = qdrant_client.QdrantClient(path=str(self.folder / "qdrant"))
        self.collection = Collection(self.client, NAME)

    def names(self) -> set[str]:
        """Return the names of all collections."""
        if self.store == "chroma":
            return {one.name for one in self.client.list_collections()}
        return {one.name for one in self.client.get_collections().collections}

    def nodes(self, name: str, embedding: CDEEmbedding | None = None) -> Any:
        """Return LlamaIndex's store."""
        if self.store == "chroma":
            return ChromaVectorStore(chroma_collection=self.client.get_or_create_collection(name, metadata=COSINE))
        both = {} if embedding is None or self.form != "both" else sparse_functions(embedding)
        return QdrantNodes(name, client=self.client, enable_hybrid=bool(both), **both)

    def build(self) -> None:
        """Fill it, and let it grow."""
        if self.framework == "li":
            embedding = CDEEmbedding(self.checkpoint)
            storage = StorageContext.from_defaults(vector_store=self.nodes(NAME, embedding))
            index = CDEVectorStoreIndex.from_documents(
                corpus(12),
                embed_model=embedding,
                storage_context=storage,
                context_dir=self.context,
                parts="both" if self.form != "one" else "one",
            )
            for document in corpus(12, seed=1):
                index.insert(document)
            return
        embedding = CDEEmbeddings(model_name=self.checkpoint)
        if self.store == "chroma":
            where: Any = {"client": self.client, "collection_metadata": COSINE}
            store = cde.from_documents(
                Chroma, lc_corpus(0), embedding, context_dir=self.context, hybrid=self.form == "beside",
                collection_name=NAME, **where,
            )  # fmt: skip
        else:
            dense = embedding if self.form == "one" else embedding.dense_part()
            both: Any = {}
            if self.form == "both":
                both = {"sparse_embedding": CDESparseEmbeddings(dense), "retrieval_mode": RetrievalMode.HYBRID}
            self.client.close()
            store = cde.from_documents(
                QdrantVectorStore, lc_corpus(0), dense, context_dir=self.context,
                collection_name=NAME, path=str(self.folder / "qdrant"), **both,
            )  # fmt: skip
        store.add_documents(lc_corpus(1))
        if self.store == "qdrant":
            store.client.close()
            self.connect()

    def read(self, documents: int) -> str:
        """Return the context that stamps all documents, as a query finds them that asks for more than there are."""
        opened = self.open()
        if self.framework == "li":
            found = [n.node.metadata[STAMP] for n in opened.as_retriever(similarity_top_k=30).retrieve(QUERY)]
        else:
            found = [d.metadata[STAMP] for d in opened.similarity_search(QUERY, k=30)]
        assert len(found) == documents
        (stamp,) = set(found)
        return stamp.partition("/")[0]

    def open(self) -> Any:
        """Open what is in force, as a reader of another process does."""
        if self.framework == "li":
            name = lambda: collection_in(self.context, NAME)  # noqa: E731
            if self.form == "both":
                embedding = CDEEmbedding.from_storage(self.context, self.checkpoint)
                store = self.nodes(name(), embedding)
                return CDEVectorStoreIndex.from_vector_store(store, embedding, context_dir=self.context)
            return CDEVectorStoreIndex.from_vector_store(
                lambda: self.nodes(name()),
                CDEEmbedding.from_storage(self.context, self.checkpoint),
                context_dir=self.context,
            )

        def opener(e: CDEEmbeddings) -> Any:
            name = collection_in(self.context, NAME)
            if self.store == "chroma":
                return Chroma(name, e, client=self.client, create_collection_if_not_exists=False)
            both: Any = {}
            if self.form == "both":
                both = {"sparse_embedding": CDESparseEmbeddings(e), "retrieval_mode": RetrievalMode.HYBRID}
            return QdrantVectorStore(self.client, name, e, **both)

        embedding = None
        if self.form == "both":
            embedding = CDEEmbeddings(model_name=self.checkpoint, parts="dense")
        arguments: Any = {"embedding": embedding} if embedding else {"model_name": self.checkpoint}
        return cde.open(opener, self.context, **arguments)

    def contents(self) -> dict[str, tuple[str, str, Any, np.ndarray]]:
        """Return text, stamp, metadata and vector of each document in force, by id."""
        opened, name = self.open(), collection_in(self.context, NAME)
        client = self.collection.opened()
        ids = [record.id for record in client.records(name)]
        vectors = dict(zip(ids, client.vectors(name, ids), strict=True))
        if self.framework == "li":
            nodes = opened.vector_store.get_nodes(ids)
            return {
                n.node_id: (embedded_text(n), n.metadata[STAMP], n.metadata["file_name"], vectors[n.node_id])
                for n in nodes
            }
        found: list[Document] = opened.get_by_ids(ids)
        names = [str(d.metadata.get("_id", d.id)) for d in found]
        return {
            name: (d.page_content, d.metadata[STAMP], d.metadata["source"], vectors[name])
            for name, d in zip(names, found, strict=True)
        }

    def run(self, **settings: Any) -> Any:
        return refit(self.context, collection=self.collection, model=self.model, documents_at_once=7, **settings)

    def undo(self) -> bool:
        return undo_refit(self.context, collection=self.collection)


def assert_same(found: dict, expected: dict) -> None:
    assert {name: row[:3] for name, row in found.items()} == {name: row[:3] for name, row in expected.items()}
    for name, row in found.items():  # local Qdrant scales vectors to length 1 each time it opens
        np.testing.assert_allclose(row[3], expected[name][3], rtol=0, atol=1e-6)


def assert_refitted(place: Place, before: dict, new: str) -> None:
    """Assert that ids, texts and metadata stayed, and that vectors are what an encoder of its own makes of them."""
    after = place.contents()
    assert {name: (row[0], row[2]) for name, row in after.items()} == {
        name: (row[0], row[2]) for name, row in before.items()
    }
    encoder = ContextualEncoder.from_pretrained(place.checkpoint, device="cpu")
    assert encoder.fit_context([row[0] for row in before.values()]).fingerprint == new
    form = "one" if place.form == "one" else "dense"
    expected = encoder.encode_documents([row[0] for row in after.values()], parts=form)
    np.testing.assert_allclose(np.array([row[3] for row in after.values()]), expected, atol=1e-5)
    assert {row[1].partition("/")[0] for row in after.values()} == {new}


def nearest(place: Place, query: str, count: int) -> list[str]:
    """Return the texts of one vector that an encoder of its own finds nearest: a fitted query's own need not be."""
    contents = list(place.contents().values())
    encoder = ContextualEncoder.from_pretrained(place.checkpoint, device="cpu")
    encoder.fit_context([row[0] for row in contents])
    scores = np.array([row[3] for row in contents]) @ encoder.encode_queries([query])[0]
    return [contents[number][0] for number in np.argsort(-scores)[:count]]


KINDS = (
    "li-chroma-one", "li-chroma-beside", "lc-chroma-one", "lc-chroma-beside",
    "li-qdrant-one", "li-qdrant-both", "lc-qdrant-one", "lc-qdrant-both",
)  # fmt: skip


@pytest.fixture
def place(request, head, tmp_path):
    made = Place(request.param, head, tmp_path)
    made.build()
    yield made
    if made.store == "qdrant":
        made.client.close()


every_kind = pytest.mark.parametrize("place", KINDS, indirect=True)
chroma_kinds = pytest.mark.parametrize("place", ["li-chroma-one", "lc-chroma-beside"], indirect=True)


@every_kind
def test_a_collection_gets_the_context_of_its_documents(place):
    before = place.contents()
    assert len(before) == 24
    plan = plan_refit(place.context, collection=place.collection, model=place.model)
    assert place.names() == {NAME}
    assert plan.cosine < 0.99999
    done = place.run()
    new = f"{NAME}-{done.new[:12]}"
    assert (done.new, done.documents, done.embedded) == (plan.new, 24, 24)
    assert collection_in(place.context, NAME) == new
    assert place.names() == {NAME, new}
    assert_refitted(place, before, done.new)
    opened = place.open()
    asked = next(iter(before.values()))[0]
    if place.framework == "li":
        hits = [embedded_text(hit.node) for hit in opened.as_retriever(similarity_top_k=3).retrieve(asked)]
    else:
        hits = [hit.page_content for hit in opened.similarity_search(asked, k=3)]
    assert hits == nearest(place, asked, 3) if place.form == "one" else asked in hits
    assert place.undo()
    assert place.names() == {NAME}
    assert_same(place.contents(), before)
    place.run()
    assert confirm_refit(place.context, collection=place.collection)
    assert place.names() == {new}
    assert_refitted(place, before, done.new)
    assert place.run().kept is None
    assert [path.name for path in place.folder.iterdir() if ".refit" in path.name] == []


def kill_refits(kind: str, checkpoint: Path, folder: Path) -> int:
    """Kill refits of a collection at ever later writes, and at moments between; return how many died.

    In children of a process that never had a client of Chroma, whose threads a fork would lose.
    """
    place, kept = lambda: Place(kind, checkpoint, folder), folder / "before.pkl"

    def build() -> None:
        made = place()
        made.build()
        kept.write_bytes(pickle.dumps(made.contents()))

    def check() -> None:
        made, before = place(), pickle.loads(kept.read_bytes())
        found = made.contents()
        if next(iter(found.values()))[1] == next(iter(before.values()))[1]:
            assert_same(found, before)
        done = made.run()
        assert_refitted(made, before, done.new)
        assert made.undo()
        assert made.names() == {NAME}
        assert_same(made.contents(), before)

    assert not was_killed(forked(build))

    def work(begin: Any) -> None:
        made = place()
        begin()
        made.run()

    died = 0
    for died in killed_at_writes(work, step=max(1, 60 // kills(1))):  # noqa: B007
        assert not was_killed(forked(check))
    assert died
    for number in range(kills(0)):

        def begin(begun: Any) -> None:
            made = place()
            begun()
            made.run()

        died += killed(begin, 0.05 * number)
        assert not was_killed(forked(check))
    return died


KILLED = ("lc-chroma-beside", "li-qdrant-both", "li-chroma-beside", "lc-qdrant-both")


def test_killed_at_any_write_it_goes_on_to_the_same_collection(head, tmp_path):
    """One process for all kinds: importing what they need takes longer than the refits."""
    code = """
import pathlib, sys
from tests.contract.test_refit_collections import KILLED, kill_refits
for kind in KILLED:
    folder = pathlib.Path(sys.argv[2]) / kind
    folder.mkdir()
    print(kind, "killed", kill_refits(kind, pathlib.Path(sys.argv[1]), folder), "times", flush=True)
"""
    command, limit = [sys.executable, "-c", code, str(head), str(tmp_path)], LONGEST * kills(1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(KILLED)


@pytest.mark.parametrize("place", ["lc-chroma-one"], indirect=True)
def test_a_copy_that_does_not_name_its_collection_yet_takes_none_with_it(place):
    before = place.contents()
    for refitted in (False, True):
        if refitted:
            place.run()
            confirm_refit(place.context, collection=place.collection)
            before = place.contents()
        names = place.names()
        shutil.copytree(
            place.context, Shadow(place.context, place.collection).folder / "unfinished"
        )  # killed just then
        assert not place.undo()
        assert place.names() == names
        assert_same(place.contents(), before)


@chroma_kinds
def test_a_store_that_loses_a_write_is_noticed_and_the_old_collection_stays(place, monkeypatch):
    before = place.contents()
    add = chromadb.Collection.upsert if place.framework == "lc" else chromadb.Collection.add
    name = add.__name__

    def loses(self: Any, ids: Any, **rest: Any) -> Any:
        rest = {key: value[1:] if isinstance(value, list) else value for key, value in rest.items()}
        return add(self, ids=list(ids)[1:], **rest)

    monkeypatch.setattr(chromadb.Collection, name, loses)
    with pytest.raises(OutputError, match="the store lost writes"):
        place.run()
    monkeypatch.undo()
    assert collection_in(place.context, NAME) == NAME
    assert_same(place.contents(), before)
    done = place.run()
    assert done.embedded == 0
    assert_refitted(place, before, done.new)


@pytest.mark.parametrize("place", ["lc-chroma-one", "li-qdrant-one"], indirect=True)
def test_a_collection_of_another_name_is_neither_refitted_nor_deleted(place):
    """A wrong name after a refit: what is confirmed or undone deletes a collection."""
    place.run()
    opened = place.collection.opened()
    opened.begin("bystander", NAME)
    names, wrong = place.names(), Collection(place.client, "bystander")
    for act in (confirm_refit, undo_refit, refit):
        with pytest.raises(ConfigError, match=f"is of collection '{NAME}', received 'bystander'"):
            act(place.context, collection=wrong)
    assert place.names() == names
    assert confirm_refit(place.context, collection=place.collection)
    assert place.names() == names - {NAME}


@pytest.mark.parametrize("place", ["lc-chroma-one", "li-qdrant-one"], indirect=True)
def test_a_refit_whose_new_collection_is_gone_can_be_undone(place):
    before = place.contents()
    place.run()
    place.collection.opened().delete(collection_in(place.context, NAME))
    assert place.undo()
    assert collection_in(place.context, NAME) == NAME
    assert_same(place.contents(), before)


@pytest.mark.parametrize("place", ["li-qdrant-one", "lc-qdrant-one"], indirect=True)
def test_qdrant_that_loses_a_write_is_noticed_too(place, monkeypatch):
    before, lost, upsert = place.contents(), [], LocalCollection._upsert_point

    def loses(self: Any, point: Any, **how: Any) -> None:
        if lost:
            upsert(self, point, **how)
        lost.append(point.id)

    monkeypatch.setattr(LocalCollection, "_upsert_point", loses)
    with pytest.raises(OutputError, match=r"24 documents were written .* it holds 23, 23 of them .* lost writes"):
        place.run()
    monkeypatch.undo()
    assert collection_in(place.context, NAME) == NAME
    assert_same(place.contents(), before)
    assert_refitted(place, before, place.run().new)


@chroma_kinds
def test_a_document_of_another_context_is_refused_and_all_stays(place):
    stored = place.client.get_collection(NAME)
    one = stored.get(limit=1, include=["metadatas"])
    metadata, other = one["metadatas"][0], "0" * 64
    own = metadata[STAMP].partition("/")[0]
    foreign = {k: v.replace(own, other) if isinstance(v, str) else v for k, v in metadata.items()}
    stored.update(one["ids"], metadatas=[foreign])
    before, names = place.contents(), place.names()
    with pytest.raises(ContextMismatchError, match="was embedded under context 000000000000"):
        place.run()
    assert place.names() == names
    assert_same(place.contents(), before)


@chroma_kinds
def test_a_collection_that_was_written_meanwhile_is_not_replaced(place, monkeypatch):
    build = Shadow.build

    def written(shadow, write):
        build(shadow, write)
        ids = place.client.get_collection(NAME).get()["ids"]
        place.client.get_collection(NAME).delete(ids=ids[:1])

    monkeypatch.setattr(Shadow, "build", written)
    with pytest.raises(OutputError, match="was written while its documents were embedded"):
        place.run()
    monkeypatch.undo()
    assert len(place.contents()) == 23
    assert place.run().documents == 23
    assert len(place.contents()) == 23


@chroma_kinds
def test_readers_find_the_old_collection_or_the_new_one(place):
    def read() -> str:
        return place.read(24)

    done = []
    two_steps = (ContextMismatchError,) if place.framework == "li" else ()  # it opens the embedding before the index
    seen = seen_meanwhile(read, lambda: done.append(place.run()) or done[0].new, two_steps)
    assert seen == {done[0].old, done[0].new}


@pytest.mark.parametrize("place", ["li-chroma-one"], indirect=True)
async def test_who_has_the_old_one_open_goes_on_with_it_under_a_gather_of_queries(place):
    retriever = place.open().as_retriever(similarity_top_k=24)
    old = next(iter(place.contents().values()))[1]
    running = asyncio.create_task(asyncio.to_thread(place.run))
    found = await asyncio.gather(*(retriever.aretrieve(f"{QUERY} {n}") for n in range(200)))
    done = await running
    assert {node.node.metadata[STAMP] for nodes in found for node in nodes} == {old}
    assert {len(nodes) for nodes in found} == {24}
    assert done.old == old


@pytest.mark.parametrize("place", ["li-chroma-one", "lc-chroma-one"], indirect=True)
def test_a_store_over_the_old_collection_is_refused_after_a_refit(place):
    place.run()
    old = {
        "li": lambda: CDEVectorStoreIndex.from_vector_store(
            place.nodes(NAME), CDEEmbedding.from_storage(place.context, place.checkpoint), context_dir=place.context
        ),
        "lc": lambda: cde.open(
            lambda e: Chroma(NAME, e, client=place.client), place.context, model_name=place.checkpoint
        ),
    }
    with pytest.raises(ContextMismatchError, match="collection_in"):
        old[place.framework]()


@pytest.mark.parametrize("place", ["lc-chroma-one"], indirect=True)
def test_the_command_refits_a_collection(place, capsys):
    before = place.contents()
    store = ["--chroma", str(place.folder / "chroma"), "--collection", NAME, "--model", str(place.checkpoint)]
    assert main(["refit", str(place.context), "--plan", *store]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 24
    assert main(["refit", str(place.context), *store]) == 0
    done = json.loads(capsys.readouterr().out)
    assert_refitted(place, before, done["new"])
    assert main(["refit", str(place.context), "--undo", *store]) == 0
    assert_same(place.contents(), before)
    assert main(["refit", str(place.context), *store[:2]]) == 2
    assert "--collection NAME" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["lc-qdrant-one"], indirect=True)
def test_the_command_opens_a_folder_of_qdrant(place, capsys):
    place.client.close()  # which lets one client in
    store = ["--qdrant", str(place.folder / "qdrant"), "--collection", NAME, "--model", str(place.checkpoint)]
    assert main(["refit", str(place.context), "--plan", *store]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 24


@pytest.mark.parametrize("store", ["chroma", "qdrant"])
@pytest.mark.parametrize("empty", [False, True])
def test_the_command_makes_no_store_where_none_is(store, empty, tmp_path, capsys):
    place = tmp_path / "misspelled"
    if empty:
        place.mkdir()
    assert main(["refit", str(tmp_path), f"--{store}", str(place), "--collection", NAME]) == 2
    assert f"no store at {place}" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [place] * empty


@pytest.mark.parametrize("damaged", ["", "{}", '{"format_version": 1, "collection'])
def test_a_damaged_name_of_a_collection_is_refused(damaged, tmp_path):
    write_collection(tmp_path, "handbook-0123")
    assert collection_in(tmp_path, "handbook") == "handbook-0123"
    (tmp_path / "collection.json").write_text(damaged)
    with pytest.raises(ContextMismatchError, match=r"collection\.json is damaged"):
        collection_in(tmp_path, "handbook")


@pytest.mark.parametrize("place", ["lc-chroma-one"], indirect=True)
def test_what_is_no_collection_is_refused(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="give the context_dir"):
        refit(tmp_path / "none", collection=place.collection, model=place.model)
    with pytest.raises(ConfigError, match="the client is a object of builtins"):
        refit(place.context, collection=Collection(object(), NAME), model=place.model)
    empty = place.client.create_collection("empty", embedding_function=None)
    with pytest.raises(ConfigError, match="'empty' holds no documents"):
        refit(place.context, collection=Collection(place.client, empty.name), model=place.model)
    assert list(ChromaClient(place.client).records("empty")) == []
