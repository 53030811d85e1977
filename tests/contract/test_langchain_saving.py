"""A LangChain index that is saved over an older one is the old one or the new one, whenever the process is killed."""

import itertools
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from cde_retriever import langchain as cde
from cde_retriever.context.context import Context
from cde_retriever.errors import ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings, from_documents, guard
from tests.contract.langchain_corpus import FAISS, QUERY, corpus, fitted_on, load_faiss
from tests.killing import killed, kills

OPENERS: dict[Any, Callable[[Path], Callable[[Any], Any]]] = {
    FAISS: lambda folder: lambda e: load_faiss(folder, e),
    InMemoryVectorStore: lambda folder: lambda e: InMemoryVectorStore.load(str(folder / "store.json"), e),
}


@pytest.fixture
def embedding(checkpoint: Path) -> CDEEmbeddings:
    return fitted_on(checkpoint, 0)


def hits(store: Any) -> list[tuple[str, float]]:
    return [(document.page_content, score) for document, score in store.similarity_search_with_score(QUERY, k=50)]


def reopen(store_class: Any, folder: Path, embedding: CDEEmbeddings) -> Any:
    return cde.open(OPENERS[store_class](folder), folder, model_name=embedding.model_name)


@pytest.mark.parametrize("store_class", OPENERS)
def test_saved_with_its_context_and_opened_with_nothing_else(store_class, embedding, tmp_path):
    store = from_documents(store_class, corpus(0), embedding)
    folder = tmp_path / "made" / "index"
    assert cde.save_local(store, str(folder)) == folder
    assert Context.load(folder).fingerprint == embedding.context_fingerprint
    assert hits(reopen(store_class, folder, embedding)) == hits(store)
    (folder / "notes.txt").write_text("mine")
    store.add_texts(["ba ko"])
    cde.save_local(store, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(hits(reopen(store_class, folder, embedding))) == 13
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_an_index_of_another_context_is_not_overwritten(checkpoint, embedding, tmp_path):
    cde.save_local(from_documents(FAISS, corpus(0), embedding), tmp_path / "index")
    before = {file.name: file.read_bytes() for file in (tmp_path / "index").iterdir()}
    other = from_documents(FAISS, corpus(1), fitted_on(checkpoint, 1))
    for save in (lambda: cde.save_local(other, tmp_path / "index"), lambda: other.save_local(tmp_path / "index")):
        with pytest.raises(ContextMismatchError, match="not overwritten"):
            save()
    assert {file.name: file.read_bytes() for file in (tmp_path / "index").iterdir()} == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("store_class", "name"), [(FAISS, "index.faiss"), (FAISS, "index.pkl"), (InMemoryVectorStore, "store.json")]
)
def test_a_damaged_file_is_refused(store_class, name, embedding, tmp_path):
    cde.save_local(from_documents(store_class, corpus(0), embedding), tmp_path)
    whole, seed = (tmp_path / name).read_bytes(), random.Random(0)
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[seed.randrange(len(whole))] ^= 1 << seed.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ContextMismatchError, match=f"{name} is not the file that the index was saved with"):
            reopen(store_class, tmp_path, embedding)
    (tmp_path / name).unlink()
    with pytest.raises(ContextMismatchError, match="restore the folder"):
        reopen(store_class, tmp_path, embedding)
    (tmp_path / name).write_bytes(whole)
    assert len(hits(reopen(store_class, tmp_path, embedding))) == 12
    (tmp_path / "checksums.json").write_text("[" * 5000)
    with pytest.raises(ContextMismatchError, match="is damaged"):
        reopen(store_class, tmp_path, embedding)


def test_a_dump_over_a_saved_index_is_opened(embedding, tmp_path):
    store = from_documents(InMemoryVectorStore, corpus(0), embedding)
    cde.save_local(store, tmp_path)
    store.add_texts(["ba ko"])
    store.dump(str(tmp_path / "store.json"))
    assert len(hits(reopen(InMemoryVectorStore, tmp_path, embedding))) == 13


def test_files_name_public_modules_alone(embedding, tmp_path):
    """So that they open after private modules have moved."""
    store = from_documents(FAISS, corpus(0), embedding)
    cde.save_local(store, tmp_path)
    for pickled in ((tmp_path / "index.pkl").read_bytes(), pickle.dumps(store.__reduce_ex__(4)[:2])):
        assert b"cde_retriever.langchain" in pickled
        assert b"adapters" not in pickled


def test_two_faiss_indexes_of_one_context_share_a_folder(embedding, tmp_path):
    for name, count in (("small", 3), ("large", 9)):
        from_documents(FAISS, corpus(0, count), embedding).save_local(str(tmp_path / "index"), name)
    for name, count in (("small", 3), ("large", 9)):
        stock = FAISS.load_local(str(tmp_path / "index"), embedding, name, allow_dangerous_deserialization=True)
        assert len(hits(guard(stock, embedding))) == count


@pytest.mark.parametrize("store_class", ["unguarded", "Chroma"])
def test_what_cannot_be_saved_is_named_with_the_way_out(store_class, embedding, tmp_path):
    from langchain_chroma import Chroma

    if store_class == "unguarded":
        store, match = InMemoryVectorStore(embedding), r"InMemoryVectorStore is not guarded; call guard\("
    else:
        store, match = (
            from_documents(Chroma, corpus(0), embedding),
            r"Chroma has neither save_local nor dump.*context_dir",
        )
    with pytest.raises(TypeError, match=match):
        cde.save_local(store, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_dump_that_fails_leaves_the_old_file(embedding, tmp_path, monkeypatch):
    store = from_documents(InMemoryVectorStore, corpus(0), embedding)
    store.dump(str(tmp_path / "store.json"))
    before = (tmp_path / "store.json").read_text()
    monkeypatch.setattr(json, "dump", lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.dump(str(tmp_path / "store.json"))
    assert (tmp_path / "store.json").read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("store_class", OPENERS)
def test_killed_while_saving_leaves_the_old_index_or_the_new_one(store_class, embedding, tmp_path):
    stores = [from_documents(store_class, corpus(0, count), embedding) for count in (30, 12)]
    expected = [hits(store) for store in stores]
    folder, seed = tmp_path / "index", random.Random(0)
    cde.save_local(stores[0], folder)

    def save_in_turn(begin):
        begin()
        for store in itertools.cycle(stores):
            cde.save_local(store, folder)

    for _ in range(kills(8)):
        assert killed(save_in_turn, seed.uniform(0.0, 0.03))
        assert hits(reopen(store_class, folder, embedding)) in expected
    cde.save_local(stores[0], folder)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert hits(reopen(store_class, folder, embedding)) == expected[0]
