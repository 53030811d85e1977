"""`CDEVectorStoreIndex.persist`: the old index or the new one, at whatever moment the process dies."""

import itertools
import random
import time

import pytest
from llama_index.core import StorageContext, load_index_from_storage
from llama_index.core.vector_stores.simple import SimpleVectorStore

from cde_retriever import ContextFormatError, ContextMismatchError, OutputError
from cde_retriever.adapters.llama_index import storage
from cde_retriever.adapters.llama_index.index_folder import read_index_folder
from cde_retriever.files.replacing import ASIDE
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.contract.llama_index_corpus import chroma, corpus, ranking
from tests.killing import killed, kills

pytestmark = pytest.mark.filterwarnings("ignore:the vectors go to ChromaVectorStore")


def build(checkpoint, seed: int = 0, store=None, count: int = 12) -> CDEVectorStoreIndex:
    storage_context = StorageContext.from_defaults(vector_store=store)
    return CDEVectorStoreIndex.from_documents(
        corpus(count, seed), embed_model=CDEEmbedding(checkpoint), storage_context=storage_context
    )


def opened(folder, checkpoint) -> CDEVectorStoreIndex:
    return CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, checkpoint))


def test_an_index_is_written_and_opened_again_by_us_and_by_stock_functions(checkpoint, tmp_path) -> None:
    index = build(checkpoint)
    assert index.persist(tmp_path / "index") == tmp_path / "index"
    assert ranking(opened(tmp_path / "index", checkpoint)) == ranking(index)
    loaded = StorageContext.from_defaults(persist_dir=str(tmp_path / "index"))
    assert ranking(load_index_from_storage(loaded, embed_model=CDEEmbedding.from_storage(loaded, checkpoint)))
    index.insert(corpus(1, seed=3)[0])
    index.persist(tmp_path / "index")
    assert len(opened(tmp_path / "index", checkpoint).vector_store.data.embedding_dict) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_is_read_as_llama_index_reads_it_without_a_look_at_each_number(
    checkpoint, tmp_path, monkeypatch
) -> None:
    folder = build(checkpoint).persist(tmp_path / "index")
    theirs = StorageContext.from_defaults(persist_dir=str(folder))
    monkeypatch.setattr(SimpleVectorStore, "from_persist_path", None)
    ours = read_index_folder(folder)
    assert ours.to_dict() == theirs.to_dict()
    assert set(ours.vector_stores) == {"default", "image", "cde_context"}
    for damage in ("[1]", '{"vectors": {}}', "{"):
        (folder / "default__vector_store.json").write_text(damage)
        with pytest.raises(ContextFormatError, match=r"default__vector_store\.json is damaged \(.+\); restore it"):
            read_index_folder(folder)


def test_a_failed_write_leaves_the_old_index(checkpoint, tmp_path, monkeypatch) -> None:
    first, second = build(checkpoint), build(checkpoint, seed=1)
    first.persist(tmp_path / "index")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(second.vector_store), "persist", fail)
    with pytest.raises(OSError, match="no space left"):
        second.persist(tmp_path / "index")
    assert ranking(opened(tmp_path / "index", checkpoint)) == ranking(first)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_killed_writers_leave_the_old_index_or_the_new_one(checkpoint, tmp_path) -> None:
    indexes = [build(checkpoint, seed, count=60) for seed in (0, 1)]
    wanted = [ranking(index) for index in indexes]
    folder = tmp_path / "index"
    began = time.perf_counter()
    indexes[0].persist(folder)
    took = time.perf_counter() - began
    seen, rng = set(), random.Random(0)

    def persist_in_turn(begin, first):
        for number in itertools.count(first):
            indexes[number % 2].persist(folder)
            begin()  # once it has written

    for kill in range(kills(12)):
        assert killed(lambda begin, first=kill: persist_in_turn(begin, first), rng.uniform(0, 2) * took)
        found = ranking(opened(folder, checkpoint))
        assert found in wanted, f"kill {kill}"
        seen.add(wanted.index(found))
    assert seen == {0, 1}
    indexes[1].persist(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_a_kill_between_two_renames_left_is_opened(checkpoint, tmp_path) -> None:
    """Where the system cannot exchange two folders, the old one is for a moment under another name."""
    index = build(checkpoint)
    index.persist(tmp_path / "index")
    aside = tmp_path / f".index.{'0' * 32}{ASIDE}"
    for embedding in (None, index.embedding):
        (tmp_path / "index").rename(aside)
        embedding = embedding or CDEEmbedding.from_storage(tmp_path / "index", checkpoint)
        assert ranking(CDEVectorStoreIndex.from_storage(tmp_path / "index", embedding)) == ranking(index)
        assert not aside.exists()


def test_other_files_stay_and_other_folders_stop_it(checkpoint, tmp_path) -> None:
    first, second = build(checkpoint), build(checkpoint, seed=1)
    first.embedding.save_context(tmp_path / "index")
    (tmp_path / "index" / "notes.txt").write_text("mine")
    first.persist(tmp_path / "index")
    assert (tmp_path / "index" / "context.safetensors").is_file()
    second.persist(tmp_path / "index")  # another corpus: the old vectors go, and their context with them
    assert not (tmp_path / "index" / "context.safetensors").exists()
    assert (tmp_path / "index" / "notes.txt").read_text() == "mine"
    assert ranking(opened(tmp_path / "index", checkpoint)) == ranking(second)
    (tmp_path / "index" / "chroma").mkdir()
    with pytest.raises(OutputError, match="holds the folder chroma, which another program may be using"):
        second.persist(tmp_path / "index")


def test_the_context_of_vectors_that_are_elsewhere_is_not_replaced(checkpoint, tmp_path) -> None:
    first, second = build(checkpoint, store=chroma()), build(checkpoint, seed=1, store=chroma())
    first.persist(tmp_path / "index")
    first.persist(tmp_path / "index")
    for other in (second, build(checkpoint, seed=1)):
        with pytest.raises(ContextMismatchError, match=f"keeps context {first.embedding.context_fingerprint[:12]}"):
            other.persist(tmp_path / "index")
    assert storage.read_context(tmp_path / "index").fingerprint == first.embedding.context_fingerprint
