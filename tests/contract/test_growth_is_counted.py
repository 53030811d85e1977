"""What joins an index is counted and stored with it, and drift is told, in both frameworks."""

import pickle

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document as Source
from llama_index.core import StorageContext, load_index_from_storage
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore

from cde_retriever import langchain as cde
from cde_retriever.adapters.growth import FILE_NAME, Growth
from cde_retriever.context.drift import LOSS_OF_FOREIGN, LOSS_WHERE_FITTED, LOSS_WITH_WORDS
from cde_retriever.errors import ContextFormatError, ContextMismatchError
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from tests.contract.langchain_corpus import FAISS, load_faiss
from tests.killing import killed_at_writes, kills
from tests.tiny import headed_encoder, tiny_encoder
from tests.unit.test_drift import topic

OWN, FOREIGN = topic(1, 60, "ka"), topic(2, 30, "mo")
MORE = topic(1, 90, "ka")[60:]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    encoder = headed_encoder()
    return encoder.save_pretrained(tmp_path_factory.mktemp("model") / "head")


def counted(drift):
    return drift.documents_seen, drift.added, drift.detected


class KeepsTexts(SimpleVectorStore):
    """A store that keeps nodes, as databases do."""

    stores_text: bool = True
    _nodes: dict = PrivateAttr(default_factory=dict)

    def add(self, nodes, **kwargs):
        self._nodes |= {node.node_id: node for node in nodes}
        return super().add(nodes, **kwargs)


def elsewhere():
    return {"storage_context": StorageContext.from_defaults(vector_store=KeepsTexts()), "parts": "one"}


def nodes(texts, name="n"):
    return [TextNode(text=text, id_=f"{name}{i}") for i, text in enumerate(texts)]


@pytest.mark.parametrize("parts", ["one", "both"])
def test_llama_index_counts_and_stores(model, parts, tmp_path):
    embedding = CDEEmbedding(model, context_size=50)
    index = CDEVectorStoreIndex(nodes(OWN), embed_model=embedding, parts=parts)
    assert counted(index.drift) == (60, 0, False)
    index.insert_nodes(nodes(MORE, "more"))
    assert counted(index.drift) == (60, 30, False)
    index.persist(tmp_path)
    opened = CDEVectorStoreIndex.from_storage(tmp_path, CDEEmbedding.from_storage(tmp_path, model))
    assert opened.drift == index.drift
    opened.insert_nodes(nodes(FOREIGN, "foreign"))
    assert counted(opened.drift) == (60, 60, True)
    assert opened.drift.foreign == pytest.approx(0.5, abs=0.2)
    opened.persist(tmp_path)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path))
    stock = load_index_from_storage(storage, embed_model=CDEEmbedding.from_storage(storage, model))
    assert stock.drift == opened.drift


def test_what_a_refit_is_worth_follows_the_form(model):
    """Queries are fitted in one vector, which holds words, and where it holds none; in two parts they are not."""
    per_share = {}
    own_size = CDEEmbedding(model, context_for="queries").dimension
    forms = {"one": ("one", {}, 90), "both": ("both", {}, 90), "half": ("one", {}, 45)}
    forms |= {"queries": ("one", {"context_for": "queries"}, 90)}
    forms |= {"small": ("one", {"vector_size": own_size}, 90), "cut": ("one", {"truncate_dim": own_size}, 90)}
    for form, (parts, how, size) in forms.items():
        embedding = CDEEmbedding(model, context_size=size, **how)
        index = CDEVectorStoreIndex(nodes(OWN), embed_model=embedding, parts=parts)
        index.insert_nodes(nodes(FOREIGN, "foreign"))
        per_share[form] = index.drift.expected_loss / (index.drift.foreign * 30 / 90)
    expected = dict.fromkeys(("queries", "small", "cut"), LOSS_WHERE_FITTED)
    expected |= {"one": LOSS_WITH_WORDS, "both": LOSS_OF_FOREIGN, "half": LOSS_WITH_WORDS / 2}
    assert per_share == pytest.approx(expected)


def test_an_index_that_began_empty_was_fitted_on_what_came_first(model):
    index = CDEVectorStoreIndex([], embed_model=CDEEmbedding(model))
    index.insert_nodes(nodes(OWN))
    assert counted(index.drift) == (60, 0, False)
    index.insert_nodes(nodes(FOREIGN, "foreign"))
    assert counted(index.drift) == (60, 30, True)


def test_beside_an_external_store_counts_are_in_context_dir(model, tmp_path):
    index = CDEVectorStoreIndex(
        nodes(OWN), **elsewhere(), embed_model=CDEEmbedding(model, context_size=50), context_dir=tmp_path
    )
    index.insert_nodes(nodes(FOREIGN, "foreign"))
    again = CDEVectorStoreIndex.from_vector_store(
        index.vector_store, CDEEmbedding(model, context=tmp_path), context_dir=tmp_path, parts="one"
    )
    assert again.drift == index.drift
    assert index.drift.detected


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS])
def test_langchain_counts_and_stores(model, store_class, hybrid, tmp_path):
    def load(embedding):
        if store_class is FAISS:
            return load_faiss(tmp_path, embedding)
        return InMemoryVectorStore.load(str(tmp_path / "store.json"), embedding)

    embedding = cde.CDEEmbeddings(model_name=model, context_size=50)
    store = cde.from_documents(store_class, [Document(text) for text in OWN], embedding, hybrid=hybrid)
    assert counted(cde.drift(store)) == (60, 0, False)
    store.add_texts(MORE)
    assert counted(cde.drift(store)) == (60, 30, False)
    store.add_documents([Document(text) for text in FOREIGN])
    store.similarity_search("ka")
    found = cde.drift(store)
    assert counted(found) == (60, 60, True)
    cde.save_local(store, tmp_path)
    opened = cde.open(load, tmp_path, model_name=model)
    assert cde.drift(opened) == found
    opened.add_texts(FOREIGN[:3])
    assert cde.drift(opened).added == 63
    if store_class is InMemoryVectorStore:
        assert cde.drift(pickle.loads(pickle.dumps(store))) == found
    (tmp_path / FILE_NAME).write_text("{}")
    with pytest.raises(ContextMismatchError, match=FILE_NAME):
        cde.open(load, tmp_path, model_name=model)


def test_a_write_that_fails_is_not_counted(model, monkeypatch):
    store = cde.from_documents(
        InMemoryVectorStore, [Document(text) for text in OWN], cde.CDEEmbeddings(model_name=model)
    )
    monkeypatch.setattr(store, "store", None)
    with pytest.raises(TypeError):
        store.add_texts(MORE)
    assert cde.drift(store).added == 0


def test_a_damaged_record_is_refused_and_one_of_another_context_forgotten(model, tmp_path):
    embedding = CDEEmbedding(model)
    index = CDEVectorStoreIndex(nodes(OWN), **elsewhere(), embed_model=embedding, context_dir=tmp_path)
    index.insert_nodes(nodes(FOREIGN, "foreign"))
    file = tmp_path / FILE_NAME
    whole = file.read_text()

    def opened():
        return CDEVectorStoreIndex.from_vector_store(index.vector_store, embedding, context_dir=tmp_path, parts="one")

    file.write_text(whole.replace(embedding.context_fingerprint, "0" * 64))
    assert opened().drift.added == 0
    file.write_text(whole.replace('"judged"', '"jugded"'))
    with pytest.raises(ContextFormatError, match=r"growth.json is damaged .*; delete it, and counting starts anew"):
        _ = opened().drift


def test_a_model_without_a_corpus_head_counts(tmp_path):
    model = tiny_encoder().save_pretrained(tmp_path / "model")
    index = CDEVectorStoreIndex(nodes(OWN), embed_model=CDEEmbedding(model))
    index.insert_nodes(nodes(FOREIGN, "foreign"))
    assert counted(index.drift) == (60, 30, False)
    assert "nothing shows that they are unlike these, but" in str(index.drift)


# Kills


class Persisted:
    """A LlamaIndex index."""

    def __init__(self, model, folder):
        self.folder, self.model = folder, model
        self.index = CDEVectorStoreIndex(nodes(OWN), embed_model=CDEEmbedding(model))

    def grow(self, number):
        self.index.insert_nodes(nodes(MORE, f"more{number}-"))

    def save(self):
        self.index.persist(self.folder)

    def counts(self):
        embedding = CDEEmbedding.from_storage(self.folder, self.model)
        opened = CDEVectorStoreIndex.from_storage(self.folder, embedding)
        return len(opened.index_struct.nodes_dict) - len(OWN), opened.drift.added


class Saved(Persisted):
    """A LangChain store."""

    def __init__(self, model, folder):
        self.folder, self.model = folder, model
        embedding = cde.CDEEmbeddings(model_name=model)
        self.store = cde.from_documents(InMemoryVectorStore, [Document(text) for text in OWN], embedding)

    def grow(self, number):
        self.store.add_texts([f"{text} {number}" for text in MORE])

    def save(self):
        cde.save_local(self.store, self.folder)

    def counts(self):
        load = lambda e: InMemoryVectorStore.load(str(self.folder / "store.json"), e)  # noqa: E731
        opened = cde.open(load, self.folder, model_name=self.model)
        return len(opened.store) - len(OWN), cde.drift(opened).added


class Routed(Persisted):
    """An index of several contexts."""

    def __init__(self, model, folder):
        self.folder, self.model = folder, model
        sources = [Source(text=text, metadata={"kind": str(n % 2)}) for n, text in enumerate(OWN)]
        self.index = CDERoutedIndex.from_documents(sources, kind_field="kind", embed_model=CDEEmbedding(model))

    def grow(self, number):
        own = [TextNode(text=text, id_=f"{number}-{n}", metadata={"kind": "1"}) for n, text in enumerate(MORE)]
        self.index.insert_nodes(own)

    def counts(self):
        opened = CDERoutedIndex.from_storage(self.folder, self.model)
        joined = sum(len(index.index_struct.nodes_dict) for index in opened.indexes.values()) - len(OWN)
        return joined, opened.drift.whole.added


class Beside(Persisted):
    """A store that writes by itself, whose counts are in `context_dir`."""

    def __init__(self, model, folder):
        self.folder, self.model = folder, model
        self.index = CDEVectorStoreIndex(nodes(OWN), **elsewhere(), embed_model=CDEEmbedding(model), context_dir=folder)
        self.save = lambda: self.grow("at death ")  # it writes its counts as it grows

    def counts(self):
        embedding = CDEEmbedding(self.model, context=self.folder)
        found = Growth.open(embedding, self.folder, keep=False).drift.added
        return found, found


@pytest.mark.parametrize("kind", [Persisted, Saved, Routed, Beside])
def test_killed_at_any_write_counts_are_those_of_the_documents(kind, model, tmp_path):
    made = kind(model, tmp_path / "index")
    made.save()
    made.grow(0)
    old = made.counts()

    def work(begin):
        begin()
        made.save()

    died = 0
    for died in killed_at_writes(work, step=max(1, 8 // kills(1))):  # noqa: B007
        found = made.counts()
        assert found[0] == found[1], "documents and counts are of one state"
        assert found in (old, (old[0] + len(MORE), old[1] + len(MORE)))
    assert made.counts() == (old[0] + len(MORE), old[1] + len(MORE)), "the last came to its end"
    assert died or kind is Beside, "a small file is written in few writes"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
