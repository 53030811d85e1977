"""Every public way from a query to an answer in LangChain, and what it does under another context than the documents'.

`GUARDED` raise, whatever stands between the query and the store. `OPEN` answer, because nothing of this package stands
in their way: they are listed so that nobody takes them for guarded. docs/security.md has the same two lists.
"""

import asyncio
import contextlib
import inspect
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.example_selectors import MaxMarginalRelevanceExampleSelector, SemanticSimilarityExampleSelector
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import InMemoryByteStore
from langchain_core.structured_query import StructuredQuery
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_text_splitters import CharacterTextSplitter

from cde_retriever import langchain as cde
from cde_retriever.adapters.langchain.guard import build_guarded
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.errors import ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings, CDERetriever, from_documents, stamp
from cde_retriever.lifecycle.refit import refit
from tests.contract.langchain_corpus import FAISS, QUERY, corpus, fitted_on, load_faiss, texts_of
from tests.tiny import headed_encoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import langchain_community.vectorstores as community
    from langchain_chroma import Chroma
    from langchain_classic.chains.hyde.base import HypotheticalDocumentEmbedder
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.indexes.vectorstore import VectorStoreIndexWrapper
    from langchain_classic.retrievers import (
        ContextualCompressionRetriever,
        EnsembleRetriever,
        MergerRetriever,
        MultiQueryRetriever,
        MultiVectorRetriever,
        ParentDocumentRetriever,
        RePhraseQueryRetriever,
        SelfQueryRetriever,
        TimeWeightedVectorStoreRetriever,
    )
    from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline, EmbeddingsFilter
    from langchain_classic.storage import InMemoryStore
    from langchain_community.document_transformers import EmbeddingsRedundantFilter
    from langchain_community.query_constructors.chroma import ChromaTranslator
    from langchain_community.retrievers import KNNRetriever
    from langchain_community.vectorstores import SKLearnVectorStore
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

SECURITY = Path(__file__).parent.parent.parent / "docs" / "security.md"


class Case:
    """A guarded store of one context, and an embedding under another."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.own, self.other = fitted_on(checkpoint, 0), fitted_on(checkpoint, 1)
        self.folder, self.model = folder, checkpoint
        self.store = from_documents(FAISS, corpus(0), self.own)

    def swapped(self) -> Any:
        """Return the store with the other embedding in the place of its own."""
        self.store.embedding_function = self.other
        return self.store

    def saved(self) -> Path:
        cde.save_local(self.store, self.folder / "index")
        return self.folder / "index"

    def headed(self, seed: int) -> CDEEmbeddings:
        """Return an embedding of a model with a corpus head."""
        folder = self.folder / "headed"
        if not folder.exists():
            headed_encoder().save_pretrained(folder)
        return fitted_on(folder, seed)

    def hybrid(self, seed: int = 0) -> Any:
        """Return a store for hybrid search, and the folder it was saved in."""
        store = from_documents(FAISS, corpus(seed), self.headed(seed), hybrid=True)
        return store, cde.save_local(store, self.folder / f"hybrid{seed}")

    def model_that_says(self, *answers: str) -> FakeListChatModel:
        return FakeListChatModel(responses=list(answers))

    def chroma(self) -> Any:
        documents = stamp(corpus(0), self.own)
        return Chroma.from_documents(documents, self.own, collection_name="ways", persist_directory=str(self.folder))


def with_copied_vectors(case: Case) -> Path:
    """Return a folder where the file of vectors is that of an index under another context."""
    folder, other = case.saved(), case.folder / "other"
    cde.save_local(from_documents(FAISS, corpus(1), case.other), other)
    shutil.copy(other / "index.faiss", folder)
    return folder


def open_exchanged(case: Case) -> Any:
    _, folder = case.hybrid(0)
    _, other = case.hybrid(1)
    shutil.copy(other / "parts_index.safetensors", folder)
    (folder / "checksums.json").unlink()
    return cde.open(lambda e: load_faiss(folder, e), folder, model_name=case.folder / "headed")


def routed_with_copied_index(case: Case) -> Any:
    folder = cde.save_routed({str(seed): case.hybrid(seed)[0] for seed in (0, 1)}, case.folder / "routed")
    shutil.copy(folder / "kind-0001" / "index.faiss", folder / "kind-0000")
    return cde.open_routed(lambda e, place: load_faiss(place, e), folder, model_name=case.folder / "headed")


def swapped_words(case: Case) -> Any:
    dense = case.headed(0).dense_part()
    store = from_documents(
        QdrantVectorStore,
        corpus(0),
        dense,
        location=":memory:",
        sparse_embedding=cde.CDESparseEmbeddings(dense),
        retrieval_mode=RetrievalMode.HYBRID,
    )
    assert store.similarity_search(QUERY)
    store._sparse_embeddings = cde.CDESparseEmbeddings(case.headed(1))
    return store


def parent_documents(case: Case) -> Any:
    retriever = ParentDocumentRetriever(
        vectorstore=case.store,
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(chunk_size=20, chunk_overlap=0, separator=" "),
        search_kwargs={"k": 50},
    )
    retriever.add_documents(corpus(0, 3))
    assert retriever.invoke(QUERY)
    case.swapped()
    return retriever


def self_query(store: Any) -> Any:
    constructor = RunnableLambda(lambda _: StructuredQuery(query="baron", filter=None, limit=None))
    translator = ChromaTranslator()
    return SelfQueryRetriever(vectorstore=store, query_constructor=constructor, structured_query_translator=translator)


GUARDED: dict[str, Callable[[Case], Any]] = {
    "store.similarity_search": lambda c: c.swapped().similarity_search(QUERY),
    "store.similarity_search_with_score": lambda c: c.swapped().similarity_search_with_score(QUERY),
    "store.similarity_search_with_relevance_scores": lambda c: c.swapped().similarity_search_with_relevance_scores(
        QUERY
    ),
    "store.similarity_search_by_vector": lambda c: c.store.similarity_search_by_vector(c.other.embed_query(QUERY)),
    "store.max_marginal_relevance_search": lambda c: c.swapped().max_marginal_relevance_search(QUERY),
    "store.max_marginal_relevance_search_by_vector": lambda c: c.store.max_marginal_relevance_search_by_vector(
        c.other.embed_query(QUERY)
    ),
    "store.search": lambda c: c.swapped().search(QUERY, "similarity"),
    "store.asimilarity_search": lambda c: asyncio.run(c.swapped().asimilarity_search(QUERY)),
    "store.as_retriever": lambda c: c.swapped().as_retriever().invoke(QUERY),
    'store.as_retriever(search_type="mmr")': lambda c: c.swapped().as_retriever(search_type="mmr").invoke(QUERY),
    'store.as_retriever(search_type="similarity_score_threshold")': lambda c: (
        c.swapped()
        .as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.0})
        .invoke(QUERY)
    ),
    "pickle.loads(pickle.dumps(store))": lambda c: pickle.loads(pickle.dumps(c.swapped())).similarity_search(QUERY),
    "CDERetriever": lambda c: CDERetriever(store=c.store, embedding=c.other).invoke(QUERY),
    "CDERetriever over an unguarded store": lambda c: CDERetriever(store=c.chroma(), embedding=c.other).invoke(QUERY),
    'CDERetriever(mode="hybrid")': lambda c: CDERetriever(
        store=c.hybrid()[0], embedding=c.headed(1), mode="hybrid"
    ).invoke(QUERY),
    "open, with an index of two parts of another context": lambda c: open_exchanged(c),
    "CDESparseEmbeddings": lambda c: swapped_words(c).similarity_search(QUERY),
    "open": lambda c: cde.open(lambda e: load_faiss(c.saved(), e), c.other.context, model_name=c.model),
    "open_routed": lambda c: routed_with_copied_index(c),
    "guard": lambda c: cde.guard(Chroma("ways", c.other, persist_directory=str(c.chroma() and c.folder)), c.other),
    "from_documents": lambda c: from_documents(
        Chroma, corpus(1), c.other, collection_name="ways", persist_directory=str(c.chroma() and c.folder)
    ),
    "FAISS.load_local": lambda c: load_faiss(c.saved(), c.other).similarity_search(QUERY),
    "FAISS.deserialize_from_bytes": lambda c: FAISS.deserialize_from_bytes(
        c.store.serialize_to_bytes(), c.other, allow_dangerous_deserialization=True
    ).similarity_search(QUERY),
    "refit": lambda c: refit(with_copied_vectors(c), model=ModelSpec(str(c.model)), trust_pickle=True),
    "FAISS.merge_from": lambda c: c.store.merge_from(from_documents(FAISS, corpus(1), c.other)),
    "CacheBackedEmbeddings": lambda c: cde.guard(
        InMemoryVectorStore(
            CacheBackedEmbeddings.from_bytes_store(
                c.other, InMemoryByteStore(), namespace=c.own.cache_namespace, key_encoder="sha256"
            )
        ),
        c.other,
    ),
    "HypotheticalDocumentEmbedder": lambda c: cde.guard(
        InMemoryVectorStore(
            HypotheticalDocumentEmbedder.from_llm(c.model_that_says("text"), c.other, prompt_key="web_search")
        ),
        c.other,
    ),
    "index": lambda c: index(corpus(1), InMemoryRecordManager("ways"), c.swapped(), key_encoder="sha256"),
    "MultiVectorRetriever": lambda c: MultiVectorRetriever(vectorstore=c.swapped(), docstore=InMemoryStore()).invoke(
        QUERY
    ),
    "ParentDocumentRetriever": lambda c: parent_documents(c).invoke(QUERY),
    "EnsembleRetriever": lambda c: EnsembleRetriever(retrievers=[c.swapped().as_retriever()], weights=[1.0]).invoke(
        QUERY
    ),
    "MergerRetriever": lambda c: MergerRetriever(retrievers=[c.swapped().as_retriever()]).invoke(QUERY),
    "MultiQueryRetriever": lambda c: MultiQueryRetriever.from_llm(
        c.swapped().as_retriever(), c.model_that_says("one\ntwo")
    ).invoke(QUERY),
    "RePhraseQueryRetriever": lambda c: RePhraseQueryRetriever.from_llm(
        c.swapped().as_retriever(), c.model_that_says("one")
    ).invoke(QUERY),
    "SelfQueryRetriever": lambda c: self_query(c.swapped()).invoke(QUERY),
    "TimeWeightedVectorStoreRetriever": lambda c: TimeWeightedVectorStoreRetriever(
        vectorstore=c.swapped(), memory_stream=[]
    ).invoke(QUERY),
    "ContextualCompressionRetriever": lambda c: ContextualCompressionRetriever(
        base_compressor=EmbeddingsFilter(embeddings=c.own, k=2), base_retriever=c.swapped().as_retriever()
    ).invoke(QUERY),
    "SemanticSimilarityExampleSelector": lambda c: SemanticSimilarityExampleSelector(
        vectorstore=c.swapped()
    ).select_examples({"question": QUERY}),
    "MaxMarginalRelevanceExampleSelector": lambda c: MaxMarginalRelevanceExampleSelector(
        vectorstore=c.swapped()
    ).select_examples({"question": QUERY}),
    "VectorStoreIndexWrapper": lambda c: VectorStoreIndexWrapper(vectorstore=c.swapped()).vectorstore.similarity_search(
        QUERY
    ),
    "create_retriever_tool": lambda c: create_retriever_tool(c.swapped().as_retriever(), "find", "finds").invoke(QUERY),
}


def two_filters(case: Case) -> Any:
    """Documents embedded by one filter are compared with a query embedded by the next."""
    filters = [EmbeddingsRedundantFilter(embeddings=case.own), EmbeddingsFilter(embeddings=case.other, k=2)]
    pipeline = DocumentCompressorPipeline(transformers=filters)
    return pipeline.compress_documents(corpus(0), QUERY)


def knn(case: Case) -> Any:
    retriever = KNNRetriever.from_texts(texts_of(corpus(0)), case.own)
    retriever.embeddings = case.other
    return retriever.invoke(QUERY)


def dumped(case: Case) -> Any:
    file = str(case.folder / "store.json")
    from_documents(InMemoryVectorStore, corpus(0), case.own).dump(file)
    return InMemoryVectorStore.load(file, case.other).similarity_search(QUERY)


def persisted(case: Case) -> Any:
    file = str(case.folder / "store.json")
    from_documents(SKLearnVectorStore, corpus(0), case.own, persist_path=file).persist()
    return SKLearnVectorStore(case.other, persist_path=file).similarity_search(QUERY)


def in_qdrant(case: Case) -> Any:
    store = from_documents(QdrantVectorStore, corpus(0), case.own, location=":memory:", collection_name="ways")
    return QdrantVectorStore(store.client, "ways", case.other).similarity_search(QUERY)


def stock_selector(case: Case) -> Any:
    examples = [{"question": text} for text in texts_of(corpus(0))]
    selector = SemanticSimilarityExampleSelector.from_examples(examples, case.own, InMemoryVectorStore)
    selector.vectorstore.embedding = case.other  # type: ignore[attr-defined]
    return selector.select_examples({"question": QUERY})


def stamped_by_hand(case: Case) -> Any:
    store = InMemoryVectorStore.from_documents(stamp(corpus(0), case.own), case.other)
    store.embedding = case.own
    return cde.guard(store, case.own).similarity_search(QUERY)


OPEN: dict[str, Callable[[Case], Any]] = {
    "InMemoryVectorStore.load": dumped,
    "Chroma(...)": lambda c: Chroma("ways", c.other, persist_directory=str(c.chroma() and c.folder)).similarity_search(
        QUERY
    ),
    "QdrantVectorStore(...)": in_qdrant,
    "SKLearnVectorStore(...)": persisted,
    "store.index, store.client, store._collection": lambda c: c.store.index.search(
        np.array([c.other.embed_query(QUERY)], np.float32), 1
    )[1].tolist(),
    "KNNRetriever, SVMRetriever, NanoPQRetriever, DocArrayRetriever, PineconeHybridSearchRetriever": knn,
    "DocumentCompressorPipeline of two embeddings": two_filters,
    "VectorstoreIndexCreator, SemanticSimilarityExampleSelector.from_examples": stock_selector,
    "documents stamped by hand": stamped_by_hand,
}


@pytest.fixture
def case(checkpoint: Path, tmp_path: Path) -> Case:
    return Case(checkpoint, tmp_path)


@pytest.mark.parametrize("way", GUARDED)
def test_a_guarded_way_refuses_another_context(way, case):
    with pytest.raises(ContextMismatchError):
        GUARDED[way](case)


@pytest.mark.parametrize("way", OPEN)
def test_an_open_way_answers(way, case):
    assert OPEN[way](case)


def test_the_security_page_lists_the_ways():
    section = SECURITY.read_text().partition("## LangChain")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (yes|no) \|", section, re.MULTILINE)
    listed = {answer: [re.sub("`", "", way) for way, said in rows if said == answer] for answer in ("yes", "no")}
    assert listed == {"yes": list(GUARDED), "no": list(OPEN)}


def test_every_public_retriever_that_embeds_is_listed():
    """`WebResearchRetriever` and the old chains search the store that they are given."""
    by_the_store = {"WebResearchRetriever", "ChatVectorDBChain", "VectorDBQA", "VectorDBQAWithSourcesChain"}
    embeds, page = re.compile(r"embed_(query|documents)|similarity_search"), SECURITY.read_text()
    found = set()
    for package in ("classic.retrievers", "classic.retrievers.document_compressors", "classic.chains"):
        found |= public_classes(f"langchain_{package}")
    found |= public_classes("langchain_core.example_selectors") | public_classes("langchain_community.retrievers")
    names = {one.__name__ for one in found if embeds.search(inspect.getsource(one))}
    assert {"KNNRetriever", "MultiVectorRetriever"} < names
    assert {name for name in names - by_the_store if name not in page} == set()


def public_classes(module: str) -> set[type]:
    """Return the classes that a module names, without those whose packages are not installed."""
    public, found = import_module(module), set()
    for name in public.__all__:
        with contextlib.suppress(ImportError):
            found |= {one for one in [getattr(public, name)] if inspect.isclass(one)}
    return found


def test_every_search_of_every_community_store_is_guarded():
    """Searches are told by name and annotation; what else returns documents returns them for something else."""
    not_for_a_query = re.compile(r"a?(get\w*|metadata_search|process_index_results|create_results\w*)$")
    no_embedding = {"Vectara": "vectara_query"}  # it embeds on its server, and is refused as a whole
    stores = [getattr(community, name) for name in community.__all__]
    stores = [store for store in stores if inspect.isclass(store) and issubclass(store, VectorStore)]
    assert len(stores) > 60
    for store in [*stores, Chroma, QdrantVectorStore]:
        guarded = build_guarded(store, "stamp", lambda cls: cls)
        for name, method in inspect.getmembers(store, inspect.isfunction):
            returns = str(inspect.signature(method).return_annotation)
            if name.startswith("_") or not_for_a_query.match(name) or no_embedding.get(store.__name__) == name:
                continue
            if Document.__name__ in returns:
                assert getattr(guarded, name) is not method, (store.__name__, name)


def test_with_its_own_context_the_ways_answer(case):
    """So that a refusal above is one of the other context."""
    own = case.own
    assert case.store.similarity_search(QUERY)
    assert case.store.similarity_search_by_vector(own.embed_query(QUERY))
    assert CDERetriever(store=case.chroma(), embedding=own).invoke(QUERY)
    assert cde.open(lambda e: load_faiss(case.saved(), e), own.context, model_name=case.model).similarity_search(QUERY)
    retriever = case.store.as_retriever()
    assert EnsembleRetriever(retrievers=[retriever], weights=[1.0]).invoke(QUERY)
    assert MultiQueryRetriever.from_llm(retriever, case.model_that_says("one\ntwo")).invoke(QUERY)
    assert self_query(case.store).invoke(QUERY)
    compressed = EmbeddingsFilter(embeddings=own, k=2)
    assert ContextualCompressionRetriever(base_compressor=compressed, base_retriever=retriever).invoke(QUERY)
    assert SemanticSimilarityExampleSelector(vectorstore=case.store).select_examples({"question": QUERY})
