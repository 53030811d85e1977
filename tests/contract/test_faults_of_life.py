"""What may happen to an index in its life: strange corpora, a full disk, a clock set back, many readers of a refit."""

import asyncio
import os
import resource
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core import Document

from cde_retriever import langchain as cde
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.selection import SELECTIONS
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.lifecycle.refit import plan_refit, refit
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from cde_retriever.search.hybrid import inner_products
from cde_retriever.words.reading import LONGEST_WORD, WordReader
from tests.contract.langchain_corpus import FAISS, load_faiss
from tests.tiny import HEADED, documents, tiny_encoder
from tests.unit.test_drift import topic

MIXED = [
    "The pump fills the tank.",
    "Die Pumpe füllt den Tank, der überläuft.",
    "水泵把水箱注满。",
    "ポンプはタンクを満たす。",
    "المضخة تملأ الخزان",
    "ปั๊มเติมถัง",
    "\x00\x01\x02\x03 \x7f\x80\x9f \ufffd\ufffe\U0010ffff",
    bytes(range(256)).decode("latin-1"),
    "\u202e\u200b\u0301\u0301\u0301",
    "🚰" * 40,
    "A" * 5000,
    "%PDF-1.7\n%âãÏÓ\n1 0 obj<</Type/Catalog>>endobj",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_encoder(**HEADED).save_pretrained(tmp_path_factory.mktemp("model") / "head")


CORPORA = {
    "one document": ["The pump fills the tank."],
    "equal documents": ["The pump fills the tank."] * 10_000,
    "mixed languages and junk": MIXED,
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("selection", sorted({*SELECTIONS} - {"stratified"}))
def test_a_strange_corpus_gives_a_context_and_finite_vectors(model, name, selection):
    encoder = ContextualEncoder.from_pretrained(model, device="cpu")
    corpus = CORPORA[name]
    context = encoder.fit_context(corpus, selection=selection)
    assert (context.size, context.documents_seen) == (min(16, len(set(corpus))), len(corpus))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are too long
        parts = encoder.encode_documents(corpus[:20], parts="both")
        one = encoder.encode_documents(corpus[:20])
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(parts.dense, axis=1), 1, atol=1e-5)
    assert np.isfinite(parts.sparse.data).all()
    if context.size > 1:
        drift = context.drift(corpus)
        assert (drift.added, drift.detected) == (len(corpus), False), "all of them are in the context"


@pytest.mark.parametrize("name", CORPORA)
def test_an_index_of_a_strange_corpus_answers_is_stored_and_planned(model, name, tmp_path):
    corpus = CORPORA[name][:60]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = CDEVectorStoreIndex.from_documents([Document(text=t) for t in corpus], embed_model=CDEEmbedding(model))
        for text in MIXED:
            index.insert(Document(text=text))
        index.persist(tmp_path / "index")
        plan = plan_refit(tmp_path / "index", model=ModelSpec(str(model)))
        store = cde.from_documents(
            FAISS, [LangChainDocument(t) for t in corpus], cde.CDEEmbeddings(model_name=model), hybrid=True
        )
    assert plan.documents == len(index.index_struct.nodes_dict)
    assert index.as_retriever(similarity_top_k=1).retrieve(corpus[0])[0].text.strip() == corpus[0].strip()
    found = cde.CDERetriever(store=store, embedding=cde.CDEEmbeddings(model_name=model, context=index_context(store)))
    assert found.invoke(corpus[0])[0].page_content == corpus[0]


def index_context(store):
    return store.embeddings.context


def test_of_a_word_without_end_the_beginning_counts():
    """Base64 and binary junk have no blanks: a word of 50 MB would have 50 million grams."""
    rng = np.random.default_rng(0)
    word = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), LONGEST_WORD + 20_000))
    reader = WordReader("english")
    counts = reader.read([word, word + "more", word[:LONGEST_WORD]], "document")
    assert counts.words.row(0)[0].tolist() == counts.words.row(1)[0].tolist() == counts.words.row(2)[0].tolist()
    assert 0 < len(counts.grams.row(0)[0]) <= LONGEST_WORD
    assert max(map(len, [*reader._stems, *reader._grams])) <= LONGEST_WORD, "nor is it remembered"


def test_a_huge_document_is_read_and_embedded(model):
    """A few megabytes stand for 50: of the text the model reads its beginning, words are counted to the end."""
    encoder = ContextualEncoder.from_pretrained(model, device="cpu")
    huge = "The pump fills the tank. " * 150_000 + "zeppelin"
    encoder.fit_context([huge, "A short one.", "Another."])
    assert encoder.context.texts is None, "texts this long are not kept"
    with pytest.warns(UserWarning, match="longer than"):
        parts = encoder.encode_documents([huge], parts="both")
    query = encoder.encode_queries(["zeppelin"], parts="sparse")
    assert inner_products(query, parts.sparse)[0, 0] > 0


# The disk


@contextmanager
def room_for(size: int):
    """Let no file grow beyond a size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_on_a_full_disk_what_is_stored_stays_as_it_was(model, tmp_path):
    texts = documents(12)
    embedding = CDEEmbedding(model)
    index = CDEVectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=embedding)
    index.persist(tmp_path / "index")
    store = cde.from_documents(FAISS, [LangChainDocument(t) for t in texts], cde.CDEEmbeddings(model_name=model))
    cde.save_local(store, tmp_path / "store")
    kinds = [Document(text=t, metadata={"kind": t[0]}) for t in ("a b", "a c", "d e", "d f")]
    routed = CDERoutedIndex.from_documents(kinds, kind_field="kind", embed_model=CDEEmbedding(model))
    routed.persist(tmp_path / "routed")
    grown = CDEVectorStoreIndex.from_documents([Document(text=texts[0])], embed_model=CDEEmbedding(model))
    grown.insert(Document(text=texts[1]))
    grown.persist(tmp_path / "grown")
    before = files(tmp_path)
    for text in documents(12, seed=1):
        index.insert(Document(text=text))
        store.add_texts([text])
        routed.insert(Document(text=text, metadata={"kind": "a"}))
    acts = [
        lambda: index.persist(tmp_path / "index"),
        lambda: cde.save_local(store, tmp_path / "store"),
        lambda: routed.persist(tmp_path / "routed"),
        lambda: embedding.save_context(tmp_path / "new"),
        lambda: refit(tmp_path / "grown", model=ModelSpec(str(model))),
    ]
    for act in acts:
        with room_for(700), pytest.raises(Exception, match=r"(?i)too large|os error|write") as raised:
            act()
        assert not isinstance(raised.value, AssertionError)
        names = ("index", "store", "routed", "grown")
        assert {name: data for name, data in files(tmp_path).items() if name.parts[0] in names} == before
    index.persist(tmp_path / "index")  # and with room again it goes on
    assert len(CDEVectorStoreIndex.from_storage(tmp_path / "index", embedding).index_struct.nodes_dict) == 24
    assert refit(tmp_path / "index", model=ModelSpec(str(model))).documents == 24


def test_a_clock_that_was_set_back_changes_nothing(model, tmp_path):
    """Files of the future: nothing is judged by which of two dates is later."""
    folder = tmp_path / "index"
    index = CDEVectorStoreIndex.from_documents(
        [Document(text=text) for text in topic(1, 20, "ka")], embed_model=CDEEmbedding(model)
    )
    index.insert(Document(text="mobob mocuc"))
    index.persist(folder)
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (2**32, 2**32))
    done = refit(folder, model=ModelSpec(str(model)))
    assert done.documents == 21
    opened = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, model))
    assert opened.embedding.context_fingerprint == done.new
    opened.insert(Document(text="zezez"))
    opened.persist(folder)
    store = cde.from_documents(FAISS, [LangChainDocument("a b")], cde.CDEEmbeddings(model_name=model), hybrid=True)
    cde.save_local(store, tmp_path / "store")
    for path in (tmp_path / "store").iterdir():
        os.utime(path, (2**32, 2**32))
    again = cde.open(lambda e: load_faiss(tmp_path / "store", e), tmp_path / "store", model_name=model)
    again.add_texts(["c d"])
    cde.save_local(again, tmp_path / "store")
    assert cde.drift(again).added == 1


def test_a_thousand_queries_at_once_are_answered_while_a_refit_runs(model, tmp_path):
    folder = tmp_path / "index"
    texts = topic(1, 20, "ka") + topic(2, 20, "mo")
    index = CDEVectorStoreIndex.from_documents(
        [Document(text=text, id_=text) for text in texts[:20]], embed_model=CDEEmbedding(model)
    )
    for text in texts[20:]:
        index.insert(Document(text=text, id_=text))
    index.persist(folder)
    index = CDEVectorStoreIndex.from_storage(folder, CDEEmbedding.from_storage(folder, model))
    retriever = index.as_retriever(similarity_top_k=1)
    expected = [retriever.retrieve(text)[0].node.ref_doc_id for text in texts]
    done = []
    work = threading.Thread(target=lambda: done.append(refit(folder, model=ModelSpec(str(model)), documents_at_once=5)))

    async def ask():
        work.start()
        return await asyncio.gather(*(retriever.aretrieve(texts[number % 40]) for number in range(1000)))

    found = asyncio.run(ask())
    work.join()
    assert [nodes[0].node.ref_doc_id for nodes in found] == [expected[number % 40] for number in range(1000)]
    assert done[0].new != done[0].old
