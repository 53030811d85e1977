"""Settings of an embedding given to an index or a store: refused with what to write instead, which then works."""

import inspect
from pathlib import Path

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import TransformComponent

from cde_retriever import ConfigError
from cde_retriever import langchain as cde
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from tests.contract.langchain_corpus import FAISS
from tests.contract.llama_index_corpus import chroma, text_nodes
from tests.tiny import HEADED, documents, tiny_encoder

TEXTS = documents(6)
DOCUMENTS = [Document(text=text, metadata={"kind": str(n % 2)}) for n, text in enumerate(TEXTS)]
STORED = [LangChainDocument(text, metadata={"kind": str(n % 2)}) for n, text in enumerate(TEXTS)]
OF_INDEXES_TOO = {"callback_manager", "parts"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoder(**HEADED).save_pretrained(tmp_path_factory.mktemp("model") / "head")


@pytest.fixture(scope="module")
def places(folder, tmp_path_factory):
    """Return the folders of an index, of a Chroma store, and of that store's context."""
    root = tmp_path_factory.mktemp("indexes")
    index, store, context = (root / name for name in ("index", "store", "context"))
    CDEVectorStoreIndex.from_documents(DOCUMENTS, embed_model=CDEEmbedding(folder)).persist(index)
    storage = StorageContext.from_defaults(vector_store=chroma(store, "documents"))
    CDEVectorStoreIndex.from_documents(
        DOCUMENTS, embed_model=CDEEmbedding(folder), storage_context=storage, context_dir=context
    )
    return index, store, context


def storage_of(index: Path) -> StorageContext:
    return StorageContext.from_defaults(persist_dir=str(index))


def stored(places, **given):
    _, store, context = places
    return CDEVectorStoreIndex.from_vector_store(chroma(store, "documents"), context_dir=context, **given)


def opened(places, **given):
    _, store, context = places
    return CDEVectorStoreIndex.from_vector_store(lambda: chroma(store, "documents"), context_dir=context, **given)


@pytest.mark.parametrize(
    ("build", "made_by"),
    [
        (lambda _, **given: CDEVectorStoreIndex.from_documents(DOCUMENTS, **given), "CDEEmbedding("),
        (lambda _, **given: CDEVectorStoreIndex(text_nodes(), **given), "CDEEmbedding("),
        (lambda _, **given: CDEVectorStoreIndex.from_vector_store(chroma(), **given), "CDEEmbedding("),
        (lambda _, **given: CDERoutedIndex.from_documents(DOCUMENTS, kind_field="kind", **given), "CDEEmbedding("),
        (stored, "CDEEmbedding.from_storage('{2}', "),
        (opened, "CDEEmbedding.from_storage('{2}', "),
        (
            lambda places, **given: CDEVectorStoreIndex.from_storage(places[0], **given),
            "CDEEmbedding.from_storage('{0}', ",
        ),
        (
            lambda places, **given: CDEVectorStoreIndex.from_storage(storage_of(places[0]), **given),
            "CDEEmbedding.from_storage(storage_context, ",
        ),
        (
            lambda places, **given: load_index_from_storage(storage_of(places[0]), **given),
            "CDEEmbedding.from_storage(storage_context, ",
        ),
    ],
)
def test_an_index_says_how_to_write_settings_of_an_embedding(folder, places, build, made_by):
    model_name = str(folder)
    with pytest.raises(ConfigError) as refused:
        build(places, model_name=model_name, max_length=16)
    settings = f"max_length=16, model_name={model_name!r}"
    beginning = f"{settings} is for the embedding, and CDEVectorStoreIndex would not use it; write embed_model="
    assert str(refused.value) == f"{beginning}{made_by.format(*places)}{settings})"
    with pytest.raises(ConfigError) as refused:
        build(places, model_name=model_name)
    line = str(refused.value).split("write embed_model=")[1]
    names = {"CDEEmbedding": CDEEmbedding, "storage_context": storage_of(places[0])}
    assert build(places, embed_model=eval(line, names)).as_retriever() is not None


@pytest.mark.parametrize("index_class", [CDEVectorStoreIndex, CDERoutedIndex])
def test_settings_are_refused_before_a_document_is_split(folder, index_class):
    class Splitter(TransformComponent):
        def __call__(self, nodes, **_):
            raise AssertionError(nodes)

    given = {"embed_model": CDEEmbedding(folder), "transformations": [Splitter()], "context_size": 3}
    kinds = {} if index_class is CDEVectorStoreIndex else {"kind_field": "kind"}
    with pytest.raises(ConfigError, match=r"^context_size=3 is for .*embed_model=CDEEmbedding\(context_size=3\)$"):
        index_class.from_documents(DOCUMENTS, **given, **kinds)


def test_every_setting_of_an_embedding_is_refused_but_those_of_an_index(folder):
    arguments = {
        name
        for base in CDEVectorStoreIndex.__mro__
        for maker in (base.__init__, getattr(base, "from_documents", base.__init__))
        for name in inspect.signature(maker).parameters
    }
    assert arguments & CDEEmbedding.model_fields.keys() == OF_INDEXES_TOO
    refused = {*CDEEmbedding.model_fields, "context"} - OF_INDEXES_TOO
    assert {"model_name", "context_size", "truncate_dim", "vector_size", "language", "context_for"} < refused
    assert {"embed_batch_size", "num_workers"} < refused
    for name in refused:
        with pytest.raises(ConfigError, match=rf"^{name}=None is for .*write embed_model=CDEEmbedding\({name}=None\)$"):
            CDEVectorStoreIndex.from_documents(DOCUMENTS, embed_model=CDEEmbedding(folder), **{name: None})


def test_an_index_takes_what_is_its_own(folder):
    own = {"parts": "one", "callback_manager": CallbackManager(), "use_async": False, "show_progress": False}
    index = CDEVectorStoreIndex.from_documents(DOCUMENTS, embed_model=CDEEmbedding(folder), **own)
    assert index.embedding.parts == "one"
    assert index._callback_manager is own["callback_manager"]
    assert isinstance(index, VectorStoreIndex)


def test_a_context_to_open_an_index_with_goes_to_an_embedding(places):
    with pytest.raises(ConfigError, match=r"^context='c' is for .*; write embed_model=CDEEmbedding\(context='c'\)$"):
        CDEVectorStoreIndex.from_storage(places[0], context="c")


@pytest.mark.parametrize("store_class", [InMemoryVectorStore, FAISS])
def test_a_store_says_how_to_write_settings_of_an_embedding(folder, store_class):
    for build in (cde.from_documents, lambda *given, **more: cde.from_documents_by_kind(*given, "kind", **more)):
        with pytest.raises(ConfigError) as refused:
            build(store_class, STORED, model_name=str(folder), context="c")
        settings = f"context='c', model_name={str(folder)!r}"
        said = f"{settings} is for the embedding, and {store_class.__name__} would not use it; write embedding="
        assert str(refused.value) == f"{said}CDEEmbeddings({settings})"
    with pytest.raises(ConfigError) as refused:
        cde.from_documents(store_class, STORED, model_name=str(folder))
    embedding = eval(str(refused.value).split("write embedding=")[1], {"CDEEmbeddings": CDEEmbeddings})
    assert len(cde.from_documents(store_class, STORED, embedding=embedding).similarity_search(TEXTS[0], k=3)) == 3


def test_a_value_too_long_to_read_is_left_out():
    with pytest.raises(ConfigError, match=r"^prompts=\.\.\. is for .*CDEEmbeddings\(prompts=\.\.\.\)$"):
        cde.from_documents(InMemoryVectorStore, STORED, prompts={"query": "q" * 300})


def test_a_store_takes_an_argument_of_its_own_that_an_embedding_has_too(folder):
    languages = []

    class Translated(InMemoryVectorStore):
        @classmethod
        def from_texts(cls, texts, embedding, metadatas=None, *, language="none", **kwargs):
            languages.append(language)
            return super().from_texts(texts, embedding, metadatas, **kwargs)

    cde.from_documents(Translated, STORED, CDEEmbeddings(model_name=folder), language="german", device="cpu")
    assert languages == ["german"]
    with pytest.raises(ConfigError, match=r"^context_size=3 is for the embedding, and Translated would not use it"):
        cde.from_documents(Translated, STORED, language="german", context_size=3)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("sho_progress", "show_progress"), ("embedding_model", "embed_model"), ("contextdir", "context_dir")],
)
def test_misspelt_arguments_of_an_index_are_refused_with_what_is_meant(given, meant, folder, places):
    with pytest.raises(ConfigError, match=f"{given} is no argument of CDEVectorStoreIndex, .*; write {meant}="):
        CDEVectorStoreIndex.from_documents(DOCUMENTS, embed_model=CDEEmbedding(folder), **{given: True})
    with pytest.raises(ConfigError, match=f"write {meant}="):
        CDEVectorStoreIndex.from_storage(places[0], CDEEmbedding.from_storage(places[0], folder), **{given: True})


def test_misspelt_arguments_of_a_routed_index_are_refused_before_anything_is_embedded(folder, monkeypatch):
    embedding = CDEEmbedding(folder)
    monkeypatch.setattr("cde_retriever.adapters.llama_index.routed_index.run_transformations", None)
    with pytest.raises(ConfigError, match=r"sho_progress is no argument of .*; write show_progress="):
        CDERoutedIndex.from_documents(DOCUMENTS, kinds=2, embed_model=embedding, sho_progress=True)


def test_misspelt_arguments_of_a_langchain_store_are_refused_with_what_is_meant(folder):
    with pytest.raises(ConfigError, match=r"hybird is no argument of InMemoryVectorStore, .*; write hybrid="):
        cde.from_documents(InMemoryVectorStore, STORED, CDEEmbeddings(model_name=folder), hybird=True)


def test_arguments_of_a_subclass_and_of_transformations_are_theirs(folder):
    class Shown(CDEVectorStoreIndex):
        def __init__(self, *given, show_progres=None, **more):
            super().__init__(*given, **more)
            seen.append(show_progres)

    class Marked(TransformComponent):
        def __call__(self, nodes, mark="", **_):
            seen.append(mark)
            return nodes

    seen = []
    index = Shown.from_documents(
        DOCUMENTS, embed_model=CDEEmbedding(folder), transformations=[Marked()], show_progres=1, mark="x"
    )
    assert seen == ["x", 1]
    assert len(index.index_struct.nodes_dict) == len(DOCUMENTS)
