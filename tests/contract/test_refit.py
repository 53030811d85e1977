"""`refit`: a new context for a stored index; killed at any write it goes on, and readers find old or new."""

import errno
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import faiss
import numpy as np
import pytest
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_core.documents import Document
from llama_index.core import Document as LlamaDocument
from llama_index.core.schema import TextNode

from cde_retriever import langchain as cde
from cde_retriever.adapters.llama_index.storage import embedded_text, read_context
from cde_retriever.adapters.stamps import STAMP
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.cli.main import main
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextMismatchError, OutputError
from cde_retriever.files.full_disk import DiskError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.lifecycle.refit import confirm_refit, plan_refit, refit, undo_refit
from cde_retriever.lifecycle.shadow import Shadow
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from tests.contract.langchain_corpus import FAISS, load_faiss
from tests.contract.langchain_corpus import QUERY as ASKED
from tests.contract.langchain_corpus import corpus as lc_corpus
from tests.contract.llama_index_corpus import corpus
from tests.killing import killed_at_writes, kills
from tests.readers import seen_meanwhile
from tests.tiny import HEADED, tiny_checkpoint


class LlamaIndex:
    """An index of the LlamaIndex simple store that grew after it was built."""

    @staticmethod
    def build(checkpoint: Path, folder: Path) -> None:
        index = CDEVectorStoreIndex.from_documents(corpus(12), embed_model=CDEEmbedding(checkpoint))
        for document in corpus(12, seed=1):
            index.insert(document)
        index.persist(folder)

    @staticmethod
    def open(checkpoint: Path, folder: Path) -> Any:
        return CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, checkpoint))

    @classmethod
    def grow(cls, checkpoint: Path, folder: Path) -> None:
        index = cls.open(checkpoint, folder)
        for document in corpus(8, seed=2):
            index.insert(document)
        index.persist(folder)

    @classmethod
    def contents(cls, checkpoint: Path, folder: Path) -> dict[str, tuple[str, str, list[float]]]:
        """Return text, stamp and vector of each node."""
        index = cls.open(checkpoint, folder)
        vectors = index.vector_store.data.embedding_dict
        assert vectors.keys() == set(index.index_struct.nodes_dict)
        nodes = index.docstore.get_nodes(list(vectors))
        return {n.node_id: (embedded_text(n), n.metadata[STAMP], vectors[n.node_id]) for n in nodes}


class LangChain:
    """A FAISS index that grew after it was built."""

    @staticmethod
    def build(checkpoint: Path, folder: Path, hybrid: bool = False) -> None:
        store = cde.from_documents(FAISS, lc_corpus(0), CDEEmbeddings(model_name=checkpoint), hybrid=hybrid)
        store.add_documents(lc_corpus(1))
        cde.save_local(store, folder)

    @staticmethod
    def open(checkpoint: Path, folder: Path) -> Any:
        return cde.open(lambda e: load_faiss(folder, e), folder, model_name=checkpoint)

    @classmethod
    def grow(cls, checkpoint: Path, folder: Path) -> None:
        store = cls.open(checkpoint, folder)
        store.add_documents(lc_corpus(2)[:8])
        cde.save_local(store, folder)

    @classmethod
    def contents(cls, checkpoint: Path, folder: Path) -> dict[str, tuple[str, str, list[float]]]:
        store = cls.open(checkpoint, folder)
        found = {}
        for place, name in store.index_to_docstore_id.items():
            (document,) = store.get_by_ids([name])
            found[name] = (document.page_content, document.metadata[STAMP], store.index.reconstruct(place).tolist())
        return found


KINDS = (LlamaIndex, LangChain)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def grown(request, checkpoint, tmp_path_factory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("grown") / "index"
    request.param.build(checkpoint, folder)
    return request.param, folder


@pytest.fixture
def index(grown, tmp_path) -> tuple[Any, Path]:
    """A kind of index, and a fresh folder of it."""
    kind, folder = grown
    return kind, shutil.copytree(folder, tmp_path / "at" / "index")


def run(folder: Path, checkpoint: Path, **settings: Any) -> Any:
    return refit(folder, model=ModelSpec(str(checkpoint)), trust_pickle=True, documents_at_once=7, **settings)


def assert_refitted(kind: Any, folder: Path, checkpoint: Path, before: dict, new: str) -> None:
    """Assert that ids and texts stayed, and that the vectors are what an encoder of its own makes of them."""
    after = kind.contents(checkpoint, folder)
    assert {name: text for name, (text, *_) in after.items()} == {name: text for name, (text, *_) in before.items()}
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    assert encoder.fit_context([text for text, *_ in before.values()]).fingerprint == new
    vectors = encoder.encode_documents([text for text, *_ in after.values()])
    np.testing.assert_allclose(np.array([vector for *_, vector in after.values()]), vectors, atol=1e-5)
    assert {stamp for _, stamp, _ in after.values()} == {new}


def test_an_index_gets_the_context_of_its_documents_and_keeps_the_old_until_confirmed(index, checkpoint):
    kind, folder = index
    (folder / "notes.txt").write_text("mine")
    before = kind.contents(checkpoint, folder)
    old = next(iter(before.values()))[1]
    plan = plan_refit(folder, model=ModelSpec(str(checkpoint)), trust_pickle=True)
    assert not Shadow(folder).folder.exists()
    done = run(folder, checkpoint)
    assert (done.old, done.new, done.documents, done.embedded) == (old, plan.new, 24, 24)
    assert plan.documents == 24
    assert plan.seconds > 0
    assert plan.cosine < 0.9999
    assert_refitted(kind, folder, checkpoint, before, done.new)
    assert (folder / "notes.txt").read_text() == "mine"
    assert kind.contents(checkpoint, Path(done.kept)) == before
    assert run(folder, checkpoint).embedded == 0  # nothing more to do until it is confirmed
    assert confirm_refit(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    assert not confirm_refit(folder)
    assert run(folder, checkpoint).kept is None  # the same documents give the same context
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_a_stratified_context_stays_one(grown, checkpoint, tmp_path):
    kind, folder = grown[0], tmp_path / "index"
    settings: dict[str, Any] = {"selection": "stratified", "kind_field": "shelf", "context_size": 17}
    shelf = lambda number: {"shelf": "a" if number % 6 else "b"}  # noqa: E731
    texts = [document.text for document in corpus(30)]
    if kind is LlamaIndex:
        nodes = [
            TextNode(text=text, id_=str(n), metadata=shelf(n), excluded_embed_metadata_keys=["shelf"])
            for n, text in enumerate(texts)
        ]
        index = CDEVectorStoreIndex(nodes[:18], embed_model=CDEEmbedding(checkpoint, **settings))
        index.insert_nodes(nodes[18:])
        index.persist(folder)
    else:
        rows = [Document(text, metadata=shelf(n)) for n, text in enumerate(texts)]
        store = cde.from_documents(FAISS, rows[:18], CDEEmbeddings(model_name=checkpoint, **settings))
        store.add_documents(rows[18:])
        cde.save_local(store, folder)
    done = run(folder, checkpoint)
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    drawn = encoder.fit_context(texts, context_size=17)
    assert drawn.size == 17 > encoder.config.context_size
    kinds = [shelf(number)["shelf"] for number in range(len(texts))]
    expected = encoder.fit_context(texts, context_size=17, selection="stratified", kinds=kinds)
    assert done.new == expected.fingerprint != drawn.fingerprint
    context = (read_context if kind is LlamaIndex else Context.load)(folder)
    assert (context.selection, context.kind_field, context.size) == ("stratified", "shelf", 17)
    assert run(folder, checkpoint).kept == done.kept  # the new one too says how it was chosen
    confirm_refit(folder)
    assert run(folder, checkpoint).kept is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "known", "stored"),
    [
        ({"context_size": 5, "seed": 9}, True, True),
        ({"context_size": 5, "seed": 9, "selection": "kmeans"}, True, False),
        ({"context_size": 5}, False, True),
        ({"context_size": 17}, False, True),
    ],
    ids=["size and seed", "selection, texts not kept", "of an earlier version", "a larger one of an earlier version"],
)
def test_a_new_context_is_chosen_as_the_old_one_was(kind, settings, known, stored, checkpoint, tmp_path):
    folder = tmp_path / "index"
    encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    texts = [document.text for document in corpus(30)]
    context = encoder.fit_context(texts[:20], **settings, store_texts=stored)
    context = replace(context, choice=context.choice if known else replace(context.choice, size=None))
    if kind is LlamaIndex:
        nodes = [TextNode(text=text) for text in texts]
        CDEVectorStoreIndex(nodes, embed_model=CDEEmbedding(checkpoint, context=context)).persist(folder)
    else:
        embedding = CDEEmbeddings(model_name=checkpoint, context=context)
        cde.save_local(cde.from_documents(FAISS, [Document(text) for text in texts], embedding), folder)
    done = run(folder, checkpoint)
    own = encoder.config.context_size
    asked = settings if known else {"context_size": max(own, settings["context_size"])}
    expected = encoder.fit_context(texts, **asked)
    new = (read_context if kind is LlamaIndex else Context.load)(folder)
    assert done.new == new.fingerprint == expected.fingerprint
    assert (new.choice, new.size) == (expected.choice, asked["context_size"])
    assert (new.texts is not None) == stored


def test_undo_brings_the_old_index_back(index, checkpoint):
    kind, folder = index
    before = kind.contents(checkpoint, folder)
    run(folder, checkpoint)
    assert undo_refit(folder)
    assert kind.contents(checkpoint, folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    assert not undo_refit(folder)


def test_an_index_that_grew_since_a_refit_is_refitted_once_that_is_confirmed(index, checkpoint):
    """Else the same command again would say that all is done, and do nothing."""
    kind, folder = index
    first = run(folder, checkpoint)
    assert run(folder, checkpoint) == replace(first, embedded=0), "nothing has changed"
    kind.grow(checkpoint, folder)
    before = kind.contents(checkpoint, folder)
    with pytest.raises(ConfigError, match=r"24 documents then, 32 now, 8 joined.*confirm that refit"):
        run(folder, checkpoint)
    assert kind.contents(checkpoint, folder) == before
    confirm_refit(folder)
    done = run(folder, checkpoint)
    assert (done.old, done.documents, done.embedded) == (first.new, 32, 32)
    assert_refitted(kind, folder, checkpoint, before, done.new)


def test_killed_at_any_write_it_goes_on_to_the_same_index(index, checkpoint, tmp_path):
    kind, folder = index
    before = kind.contents(checkpoint, folder)
    old, died = next(iter(before.values()))[1], 0

    def work(begin):
        begin()
        run(folder, checkpoint)

    def check():
        found = kind.contents(checkpoint, folder)
        if next(iter(found.values()))[1] == old:
            assert found == before
        done = run(folder, checkpoint)
        assert_refitted(kind, folder, checkpoint, before, done.new)
        assert undo_refit(folder)
        assert kind.contents(checkpoint, folder) == before
        assert [path.name for path in folder.parent.iterdir()] == ["index"]

    for died in killed_at_writes(work, step=max(1, 60 // kills(3))):  # noqa: B007
        check()
    check()
    assert died > 1  # it was killed more than once before it came to its end


def test_parts_that_are_there_are_not_embedded_again_and_damaged_ones_are(index, checkpoint, monkeypatch):
    _, folder = index
    monkeypatch.setattr(Shadow, "build", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        run(folder, checkpoint)
    monkeypatch.undo()
    parts = sorted(Shadow(folder).folder.glob("vectors-*"))
    assert len(parts) == 4
    flipped = bytearray(parts[1].read_bytes())
    flipped[-1] ^= 1
    parts[1].write_bytes(flipped)
    parts[2].write_bytes(parts[2].read_bytes()[:100])
    assert run(folder, checkpoint).embedded == 14


def test_a_disk_without_room_for_the_new_index_is_told_before_anything_is_embedded(index, checkpoint, monkeypatch):
    """Room for the vectors, and for two copies of the index: one to build over, and what takes its place."""
    kind, folder = index
    before, shadow = kind.contents(checkpoint, folder), Shadow(folder).folder

    def size(place):
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())

    def free(number):
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**9, free=number))

    vectors = 4 * sum(len(vector) for *_, vector in before.values())
    free(2 * size(folder) + vectors - 1)
    with monkeypatch.context() as patch:
        patch.setattr(ContextualEncoder, "fit_context", None)
        with pytest.raises(
            DiskError, match=r"MB will be written, and .* MB are free; free space, then do the same"
        ) as told:
            run(folder, checkpoint)
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(shadow))
    assert (kind.contents(checkpoint, folder), list(folder.parent.iterdir())) == (before, [folder])
    free(2 * size(folder) + vectors)
    with monkeypatch.context() as patch:
        patch.setattr(Shadow, "build", Mock(side_effect=OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            run(folder, checkpoint)
    there = size(shadow)
    free(2 * size(folder) + vectors - there - 1)
    with pytest.raises(DiskError):
        run(folder, checkpoint)
    assert size(shadow) == there, "what was made stays"
    free(2 * size(folder) + vectors - there)
    assert run(folder, checkpoint).embedded == 0


def test_an_old_index_that_was_put_back_is_refitted_again(index, checkpoint, tmp_path):
    """By a backup, or a process that had it open and persisted it: what is kept beside it is not the new one."""
    kind, folder = index
    before = kind.contents(checkpoint, folder)
    shutil.copytree(folder, tmp_path / "backup")
    first = run(folder, checkpoint)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    done = run(folder, checkpoint)
    assert (done.new, done.embedded) == (first.new, 24)
    assert_refitted(kind, folder, checkpoint, before, done.new)
    assert undo_refit(folder)
    assert kind.contents(checkpoint, folder) == before


def test_a_damaged_record_changes_nothing_and_without_one_no_index_is_put_back_or_dropped(index, checkpoint):
    kind, folder = index
    run(folder, checkpoint)
    after, record = kind.contents(checkpoint, folder), Shadow(folder).folder / "refit.json"
    for damaged in (record.read_bytes()[:40], b"{}"):
        record.write_bytes(damaged)
        for act in (lambda: run(folder, checkpoint), lambda: undo_refit(folder), lambda: confirm_refit(folder)):
            with pytest.raises(OutputError, match=r"refit\.json is damaged"):
                act()
    record.unlink()
    with pytest.raises(OutputError, match="nothing says whether"):
        undo_refit(folder)
    assert kind.contents(checkpoint, folder) == after
    assert len(kind.contents(checkpoint, Shadow(folder).other)) == 24


def test_an_index_that_was_written_meanwhile_is_not_replaced(index, checkpoint, monkeypatch):
    kind, folder = index
    build = Shadow.build

    def written(shadow, write):
        build(shadow, write)
        (folder / "notes.txt").write_text("of somebody else")

    monkeypatch.setattr(Shadow, "build", written)
    before = kind.contents(checkpoint, folder)
    with pytest.raises(OutputError, match="was written while its documents were embedded"):
        run(folder, checkpoint)
    assert kind.contents(checkpoint, folder) == before
    monkeypatch.undo()
    assert run(folder, checkpoint).embedded == 24  # from the beginning
    assert (folder / "notes.txt").read_text() == "of somebody else"


def test_a_second_refit_of_the_same_index_is_refused(index, checkpoint):
    _, folder = index
    with Shadow(folder).alone():
        for act in (lambda: run(folder, checkpoint), lambda: undo_refit(folder), lambda: confirm_refit(folder)):
            with pytest.raises(OSError, match="another process is writing"):
                act()


@pytest.mark.parametrize(
    ("difference", "settings"),
    [({"seed": 5}, {}), ({"prompts": {"query": "q: ", "document": "d: "}}, {}), ({}, {"max_length": 32})],
    ids=["weights", "prompts", "length"],
)
def test_a_model_that_did_not_make_the_index_is_refused(index, checkpoint, tmp_path, difference, settings):
    kind, folder = index
    other = tiny_checkpoint(tmp_path / "other", **difference)
    for act in (plan_refit, refit):
        with pytest.raises(ContextMismatchError, match=r"was made by model 'tiny-bert' with (sha256|prompts|max_len)"):
            act(folder, model=ModelSpec.of(str(other), **settings), trust_pickle=True)
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    assert len(kind.contents(checkpoint, folder)) == 24


def test_readers_find_the_old_index_or_the_new_one(index, checkpoint, monkeypatch):
    kind, folder = index
    in_one_step = lambda cls, source, *_, **__: cls(checkpoint, context=read_context(source))  # noqa: E731
    monkeypatch.setattr(CDEEmbedding, "from_storage", classmethod(in_one_step))
    monkeypatch.setattr(LlamaIndex, "open", lambda _, folder: CDEVectorStoreIndex.from_storage(folder))

    def read() -> str:
        found = kind.contents(checkpoint, folder)
        (stamp,) = {stamp for _, stamp, _ in found.values()}
        assert len(found) == 24
        return stamp

    done = []
    seen = seen_meanwhile(read, lambda: done.append(run(folder, checkpoint)) or done[0].new)
    assert seen == {done[0].old, done[0].new}


def test_both_parts_of_hybrid_indexes_are_made_anew(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "head", **HEADED)
    for kind, folder in ((LlamaIndex, tmp_path / "li"), (LangChain, tmp_path / "lc")):
        kind.build(checkpoint, folder, **({"hybrid": True} if kind is LangChain else {}))
        before = kind.contents(checkpoint, folder)
        done = run(folder, checkpoint)
        encoder = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
        encoder.fit_context([text for text, *_ in before.values()])
        after = kind.contents(checkpoint, folder)
        texts = {name: text for name, (text, *_) in after.items()}
        documents = encoder.encode_documents(list(texts.values()), parts="both")
        query = encoder.encode_queries([ASKED], parts="both")
        asked = dict(zip(query.sparse.indices.tolist(), query.sparse.data.tolist(), strict=True))
        scores = documents.dense @ query.dense[0]
        for row, (first, last) in enumerate(itertools.pairwise(documents.sparse.indptr)):
            words = zip(documents.sparse.indices[first:last].tolist(), documents.sparse.data[first:last], strict=True)
            scores[row] += sum(weight * asked.get(number, 0.0) for number, weight in words)
        best = [texts[list(texts)[i]] for i in np.argsort(-scores)[:3]]
        opened = kind.open(checkpoint, folder)
        if kind is LlamaIndex:
            found = [embedded_text(n.node) for n in opened.as_retriever(similarity_top_k=3).retrieve(ASKED)]
        else:
            embedding = CDEEmbeddings(model_name=checkpoint, context=encoder.context)
            found = [d.page_content for d in cde.CDERetriever(store=opened, embedding=embedding, k=3).invoke(ASKED)]
        assert found == best
        assert done.new == encoder.context.fingerprint


def test_the_command_plans_refits_undoes_and_confirms(index, checkpoint, capsys):
    kind, folder = index
    before = kind.contents(checkpoint, folder)
    model = ["--model", str(checkpoint), "--allow-dangerous-deserialization"]
    assert main(["refit", str(folder), "--plan", *model]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["documents"] == 24
    assert (plan["drift"]["documents_seen"], plan["drift"]["added"]) == (12, 12)
    assert main(["refit", str(folder), *model]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["new"] == plan["new"] != done["old"]
    assert main(["refit", str(folder), "--undo"]) == 0
    assert kind.contents(checkpoint, folder) == before
    assert main(["refit", str(folder), *model]) == 0
    assert main(["refit", str(folder), "--confirm"]) == 0
    assert next(iter(kind.contents(checkpoint, folder).values()))[1] == plan["new"]
    assert main(["refit", str(folder), "--plan", *model]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])["drift"]
    assert (done["documents_seen"], done["added"]) == (24, 0)


def test_folders_are_named_as_they_were_given(index, checkpoint, monkeypatch):
    _, folder = index
    monkeypatch.chdir(folder.parent)
    done = run(Path("index"), checkpoint)
    assert (done.index, done.kept) == ("index", "index.refit/index")
    done = run(folder, checkpoint)
    assert (done.index, done.kept) == (str(folder), str(folder.parent / "index.refit" / "index"))
    monkeypatch.chdir(folder)
    done = run(Path(), checkpoint)
    assert (done.index, done.kept) == (".", "../index.refit/index")


def test_what_is_no_index_is_refused(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="no index at"):
        run(tmp_path / "none", checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither a LlamaIndex index"):
        run(tmp_path / "empty", checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_of_an_index_of_several_contexts_each_kind_is_refitted_by_itself(tmp_path):
    model = tiny_checkpoint(tmp_path / "head", **HEADED)
    made = [LlamaDocument(text=f"{kind} {n} word", metadata={"kind": kind}) for kind in ("a b", "c") for n in range(4)]
    routed = CDERoutedIndex.from_documents(made, kind_field="kind", embed_model=CDEEmbedding(model))
    for n in range(4):
        routed.insert(LlamaDocument(text=f"more {n} words", metadata={"kind": "c"}))
    folder = routed.persist(tmp_path / "routed")
    with pytest.raises(ConfigError, match=r"the folder of one of its kinds, as .*routes.json names them"):
        run(folder, model)
    done = run(folder / "kind-0001", model)
    assert (done.documents, done.embedded) == (8, 8)
    opened = CDERoutedIndex.from_storage(folder, model)
    assert opened.indexes["c"].embedding.context_fingerprint == done.new
    assert opened.indexes["a b"].embedding.context_fingerprint == routed.indexes["a b"].embedding.context_fingerprint
    assert "more 3 words" in opened.as_retriever(similarity_top_k=1).retrieve("more 3 words")[0].text
    for act in (lambda: routed.persist(folder), lambda: cde.forget_kind(folder, "a b")):
        with pytest.raises(OutputError, match=r"not confirmed keeps \['.*kind-0001.refit'\]"):
            act()
    assert undo_refit(folder / "kind-0001"), "so the old index is still there"
    routed.persist(folder)


def test_a_pickle_is_opened_by_whom_trusts_it_alone(tmp_path, checkpoint):
    LangChain.build(checkpoint, tmp_path / "index")
    with pytest.raises(ConfigError, match="keeps its documents in a pickle"):
        refit(tmp_path / "index", model=ModelSpec(str(checkpoint)))
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_another_index_in_the_place_is_noticed_and_the_old_one_kept(tmp_path, checkpoint):
    LlamaIndex.build(checkpoint, tmp_path / "index")
    done = run(tmp_path / "index", checkpoint)
    CDEVectorStoreIndex.from_documents(corpus(12, seed=5), embed_model=CDEEmbedding(checkpoint)).persist(
        tmp_path / "index"
    )
    for act in (lambda: run(tmp_path / "index", checkpoint), lambda: undo_refit(tmp_path / "index")):
        with pytest.raises(OutputError, match="another index was put there"):
            act()
    assert LlamaIndex.contents(checkpoint, Path(done.kept))


def test_a_faiss_index_keeps_its_kind_and_metadata(tmp_path, checkpoint):
    embedding = CDEEmbeddings(model_name=checkpoint)
    embedding.fit(lc_corpus(0))
    empty = FAISS(embedding, faiss.IndexHNSWFlat(embedding.dimension, 8), InMemoryDocstore(), {})
    store = cde.guard(empty, embedding)
    store.add_documents(lc_corpus(0) + lc_corpus(1))
    cde.save_local(store, tmp_path / "index")
    run(tmp_path / "index", checkpoint)
    opened = LangChain.open(checkpoint, tmp_path / "index")
    assert isinstance(opened.index, faiss.IndexHNSWFlat)
    found = opened.get_by_ids(list(opened.index_to_docstore_id.values()))
    assert [document.metadata["source"] for document in found] == [*range(12), *range(12)]
