"""Every public way from a query to an answer in LlamaIndex, and what it does under another context than the documents'.

`GUARDED` raise, whatever stands between the query and the store. `OPEN` answer, because nothing of this package stands
in their way: they are listed so that nobody takes them for guarded. docs/security.md has the same two lists.
"""

import asyncio
import inspect
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import qdrant_client
from llama_index.core import (
    DocumentSummaryIndex,
    MockEmbedding,
    Settings,
    StorageContext,
    SummaryIndex,
    VectorStoreIndex,
    load_index_from_storage,
    load_indices_from_storage,
)
from llama_index.core.indices.document_summary import DocumentSummaryIndexEmbeddingRetriever
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import VectorMemoryBlock
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
    RouterRetriever,
    VectorIndexAutoRetriever,
    VectorIndexRetriever,
)
from llama_index.core.schema import QueryBundle
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreInfo, VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.errors import ConfigError, ContextError
from cde_retriever.lifecycle.refit import refit
from cde_retriever.llama_index import (
    CDEContextGuard,
    CDEEmbedding,
    CDERetriever,
    CDERoutedIndex,
    CDEVectorStoreIndex,
    sparse_functions,
)
from cde_retriever.search.index_file import FILE_NAME
from tests.contract.llama_index_corpus import QUERY, chroma, corpus, text_nodes
from tests.tiny import headed_encoder

ROOT = Path(__file__).parent.parent.parent
SECURITY = ROOT / "docs" / "security.md"
LLM = MockLLM()


def fitted_on(checkpoint: Path, seed: int, **settings: Any) -> CDEEmbedding:
    embedding = CDEEmbedding(checkpoint, **settings)
    embedding.fit([document.text for document in corpus(12, seed)])
    return embedding


class Case:
    """An index of one context in memory, the same in Chroma and on the disk, and an embedding under another context."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.own, self.other = fitted_on(checkpoint, 0), fitted_on(checkpoint, 1)
        self.index = CDEVectorStoreIndex.from_documents(corpus(12), embed_model=self.own)
        self.mock = MockEmbedding(embed_dim=32)

    def swapped(self) -> VectorIndexRetriever:
        """Return a stock retriever over the index with the other embedding."""
        return VectorIndexRetriever(self.index, embed_model=self.other)

    def saved(self) -> Path:
        return self.index.persist(self.folder / "index")

    def storage(self) -> StorageContext:
        return StorageContext.from_defaults(persist_dir=str(self.saved()))

    def in_chroma(self) -> CDEVectorStoreIndex:
        storage = StorageContext.from_defaults(vector_store=chroma(self.folder / "chroma", "ways"))
        context = self.folder / "context"
        return CDEVectorStoreIndex.from_documents(
            corpus(12), embed_model=self.own, storage_context=storage, context_dir=context
        )

    def stock(self, embedding: Any) -> VectorStoreIndex:
        """Return a stock index with an embedding over the store object of ours."""
        return VectorStoreIndex.from_vector_store(self.in_chroma().vector_store, embed_model=embedding)


def router(case: Case) -> Any:
    tools = [RetrieverTool.from_defaults(case.swapped(), description=f"tool {i}") for i in range(2)]
    return RouterRetriever(selector=EmbeddingSingleSelector.from_defaults(case.mock), retriever_tools=tools, llm=LLM)


def with_copied_vectors(case: Case) -> Path:
    """Return a folder where the file of vectors is that of another index, with the same ids."""
    folder = case.saved()
    nodes = [node.model_copy(update={"text": f"other {node.text}"}) for node in case.index.docstore.docs.values()]
    twin = CDEVectorStoreIndex(nodes, embed_model=CDEEmbedding(case.checkpoint)).persist(case.folder / "twin")
    shutil.copy(twin / "default__vector_store.json", folder)
    return folder


def in_parts(case: Case, storage: StorageContext | None = None) -> CDEVectorStoreIndex:
    """Return an index in two parts and make the other embedding one of its model."""
    encoder = headed_encoder()
    model = encoder.save_pretrained(case.folder / "head")
    case.own, case.other = fitted_on(model, 0), fitted_on(model, 1).dense_part()
    if storage is not None:
        client = qdrant_client.QdrantClient(":memory:")
        store = QdrantVectorStore("ways", client=client, enable_hybrid=True, **sparse_functions(case.own))
        storage = StorageContext.from_defaults(vector_store=store)
    return CDEVectorStoreIndex.from_documents(corpus(12), embed_model=case.own, storage_context=storage)


def in_qdrant(case: Case) -> CDEVectorStoreIndex:
    return in_parts(case, StorageContext.from_defaults())


def asked_by_stock(index: CDEVectorStoreIndex, embedding: CDEEmbedding, mode: str) -> Any:
    return VectorIndexRetriever(index, embed_model=embedding, vector_store_query_mode=mode).retrieve(QUERY)


def foreign_words(case: Case) -> Any:
    """Open a collection with a store whose words are weighed under another context."""
    client = in_qdrant(case).vector_store.client
    store = QdrantVectorStore("ways", client=client, enable_hybrid=True, **sparse_functions(case.other))
    return CDEVectorStoreIndex.from_vector_store(store, case.own)


def beside_chroma(case: Case, folder: str = "context", seed: int = 0) -> CDEVectorStoreIndex:
    """Return an index in Chroma whose nodes are in two parts beside it."""
    embedding, case.other = CDEEmbedding(case.folder / "head"), fitted_on(case.folder / "head", 1).dense_part()
    storage = StorageContext.from_defaults(vector_store=chroma())
    settings = {"embed_model": embedding, "storage_context": storage, "context_dir": case.folder / folder}
    return CDEVectorStoreIndex.from_documents(corpus(12, seed), parts="both", **settings)


def asked_beside_chroma(case: Case, mode: str) -> Any:
    in_parts(case)
    return beside_chroma(case).as_retriever(mode=mode, embed_model=case.other).retrieve(QUERY)


def foreign_parts_beside_chroma(case: Case) -> Any:
    in_parts(case)
    index = beside_chroma(case)
    beside_chroma(case, "other", 1)
    shutil.copy(case.folder / "other" / FILE_NAME, case.folder / "context")
    return CDEVectorStoreIndex.from_vector_store(
        index.vector_store,
        CDEEmbedding.from_storage(case.folder / "context", case.folder / "head"),
        context_dir=case.folder / "context",
    )


def copied_parts(case: Case) -> Any:
    """Put the file of both parts of another index, with the same ids, in the place of the index's own."""
    index = in_parts(case)
    nodes = [node.model_copy(update={"text": f"other {node.text}"}) for node in index.docstore.docs.values()]
    twin = CDEVectorStoreIndex(nodes, embed_model=CDEEmbedding(case.folder / "head", context=case.own.context))
    folder = index.persist(case.folder / "index")
    shutil.copy(twin.persist(case.folder / "twin") / "cde_parts__vector_store.json", folder)
    return CDEVectorStoreIndex.from_storage(folder, case.own)


def routed_with_copied_vectors(case: Case) -> Any:
    """Put the file of vectors of one kind in the place of another's."""
    other = CDEVectorStoreIndex.from_documents(corpus(12, 1), embed_model=fitted_on(in_head(case), 1))
    folder = CDERoutedIndex({"a": in_parts(case), "b": other}).persist(case.folder / "routed")
    shutil.copy(folder / "kind-0001" / "default__vector_store.json", folder / "kind-0000")
    return CDERoutedIndex.from_storage(folder, case.folder / "head")


def in_head(case: Case) -> Path:
    in_parts(case)
    return case.folder / "head"


def pipeline(store: Any, embedding: CDEEmbedding) -> IngestionPipeline:
    return IngestionPipeline(transformations=[embedding], docstore=SimpleDocumentStore(), vector_store=store)


def second_run(case: Case, embedding: CDEEmbedding) -> Any:
    store = chroma()
    pipeline(store, case.own).run(documents=corpus(12))
    return pipeline(store, embedding).run(documents=corpus(3, seed=1))


def stock_over_pipeline(case: Case) -> Any:
    store = chroma()
    pipeline(store, case.own).run(documents=corpus(12))
    return VectorStoreIndex.from_vector_store(store, embed_model=case.mock).as_retriever().retrieve(QUERY)


def changed_settings(case: Case) -> Any:
    """Open by a stock function that would take its embedding from `Settings`."""
    before = Settings._embed_model
    Settings.embed_model = case.other
    try:
        return load_index_from_storage(case.storage(), embed_model=Settings.embed_model)
    finally:
        Settings._embed_model = before


def shortened_later(case: Case) -> Any:
    case.own.truncate_dim = 12
    return case.own.get_query_embedding(QUERY)


def asked(index: Any) -> Any:
    return index.as_retriever().retrieve(QUERY)


GUARDED: dict[str, Callable[[Case], Any]] = {
    "index.as_retriever": lambda c: c.index.as_retriever(embed_model=c.other).retrieve(QUERY),
    "index.as_retriever().aretrieve": lambda c: asyncio.run(c.index.as_retriever(embed_model=c.other).aretrieve(QUERY)),
    "index.as_query_engine": lambda c: c.index.as_query_engine(llm=LLM, embed_model=c.other).query(QUERY),
    "index.as_chat_engine": lambda c: c.index.as_chat_engine("context", llm=LLM, embed_model=c.other).chat(QUERY),
    "index.vector_store.query": lambda c: c.index.vector_store.query(
        VectorStoreQuery(query_embedding=list(c.own.get_query_embedding(QUERY)))
    ),
    "CDERetriever": lambda c: CDERetriever(c.index, embed_model=c.other).retrieve(QUERY),
    "CDERetriever with a vector for a query": lambda c: CDERetriever(c.index).retrieve(
        QueryBundle("", embedding=c.other.get_query_embedding(QUERY))
    ),
    "VectorIndexRetriever": lambda c: c.swapped().retrieve(QUERY),
    "VectorIndexRetriever.aretrieve": lambda c: asyncio.run(c.swapped().aretrieve(QUERY)),
    "VectorIndexRetriever with an embedding of another class": lambda c: VectorIndexRetriever(
        c.index, embed_model=c.mock
    ).retrieve(QUERY),
    "VectorIndexAutoRetriever": lambda c: VectorIndexAutoRetriever(
        c.index, VectorStoreInfo(content_info="", metadata_info=[]), llm=LLM, embed_model=c.other
    ).retrieve(QUERY),
    "RetrieverQueryEngine": lambda c: RetrieverQueryEngine.from_args(c.swapped(), llm=LLM).query(QUERY),
    "QueryEngineTool": lambda c: QueryEngineTool.from_defaults(
        RetrieverQueryEngine.from_args(c.swapped(), llm=LLM)
    ).call(QUERY),
    "QueryFusionRetriever": lambda c: QueryFusionRetriever(
        [c.swapped()], num_queries=1, llm=LLM, use_async=False
    ).retrieve(QUERY),
    "RouterRetriever": lambda c: router(c).retrieve(QUERY),
    "RecursiveRetriever": lambda c: RecursiveRetriever("root", {"root": c.swapped()}).retrieve(QUERY),
    "AutoMergingRetriever": lambda c: AutoMergingRetriever(c.swapped(), c.index.storage_context).retrieve(QUERY),
    "CDEVectorStoreIndex.from_storage": lambda c: CDEVectorStoreIndex.from_storage(c.saved(), c.other),
    "CDEVectorStoreIndex.from_vector_store": lambda c: CDEVectorStoreIndex.from_vector_store(
        c.in_chroma().vector_store, c.other
    ),
    "CDEVectorStoreIndex.from_documents into a filled store": lambda c: CDEVectorStoreIndex.from_documents(
        corpus(12, 1), embed_model=c.other, storage_context=c.in_chroma().storage_context
    ),
    "load_index_from_storage": lambda c: load_index_from_storage(c.storage(), embed_model=c.other),
    "load_indices_from_storage": lambda c: load_indices_from_storage(c.storage(), embed_model=c.other),
    "load_index_from_storage with another class": lambda c: load_index_from_storage(c.storage(), embed_model=c.mock),
    "load_index_from_storage after Settings.embed_model changed": changed_settings,
    "VectorStoreIndex over the storage context of an index": lambda c: asked(
        VectorStoreIndex(
            index_struct=c.index.index_struct, storage_context=c.index.storage_context, embed_model=c.other
        )
    ),
    "VectorStoreIndex.from_vector_store with the store object of an index": lambda c: asked(c.stock(c.mock)),
    "VectorStoreIndex.insert into the store object of an index": lambda c: c.stock(c.mock).insert(corpus(1, 1)[0]),
    "index.insert_nodes of nodes embedded elsewhere": lambda c: c.index.insert_nodes(c.other(text_nodes(3))),
    "a copied file of vectors": lambda c: (
        CDEVectorStoreIndex.from_storage(with_copied_vectors(c), c.own).as_retriever().retrieve(QUERY)
    ),
    "copies of index.vector_store": lambda c: pickle.loads(pickle.dumps(c.index.vector_store)).query(
        VectorStoreQuery(query_embedding=c.other.get_query_embedding(QUERY))
    ),
    "refit": lambda c: refit(with_copied_vectors(c), model=ModelSpec(str(c.checkpoint))),
    "index.as_retriever of two parts": lambda c: in_parts(c).as_retriever(embed_model=c.other).retrieve(QUERY),
    "index.as_retriever of two parts, mode sparse": lambda c: (
        in_parts(c).as_retriever(mode="sparse", embed_model=c.other).retrieve(QUERY)
    ),
    "the store of both parts in the storage context": lambda c: (
        in_parts(c)
        .storage_context.vector_stores["cde_parts"]
        .query(VectorStoreQuery(query_embedding=c.other.get_query_embedding(QUERY), query_str=QUERY, mode="hybrid"))
    ),
    "a copied file of both parts": copied_parts,
    "index.as_retriever over Chroma, both parts beside it": lambda c: asked_beside_chroma(c, "hybrid"),
    "index.as_retriever over Chroma, both parts beside it, mode sparse": lambda c: asked_beside_chroma(c, "sparse"),
    "both parts of another context beside Chroma": foreign_parts_beside_chroma,
    "CDERoutedIndex.as_retriever": lambda c: (
        CDERoutedIndex({"a": in_parts(c)}).as_retriever(embed_model=c.other).retrieve(QUERY)
    ),
    "CDERoutedIndex.as_retriever with a vector for a query": lambda c: (
        CDERoutedIndex({"a": in_parts(c)})
        .as_retriever()
        .retrieve(QueryBundle("", embedding=c.other.get_query_embedding(QUERY)))
    ),
    "CDERoutedIndex.from_storage": routed_with_copied_vectors,
    "index.as_retriever over Qdrant in two parts": lambda c: (
        in_qdrant(c).as_retriever(embed_model=c.other).retrieve(QUERY)
    ),
    "VectorIndexRetriever over Qdrant, hybrid": lambda c: asked_by_stock(in_qdrant(c), c.other, "hybrid"),
    "CDEVectorStoreIndex over Qdrant with words of another context": foreign_words,
    "VectorMemoryBlock": lambda c: asyncio.run(
        VectorMemoryBlock(vector_store=c.in_chroma().vector_store, embed_model=c.other).aget([ChatMessage(QUERY)])
    ),
    "IngestionPipeline, a later run": lambda c: second_run(c, CDEEmbedding(c.checkpoint)),
    "IngestionPipeline, a later run under another context": lambda c: second_run(c, c.other),
    "VectorStoreIndex.from_vector_store with the store object of a pipeline": stock_over_pipeline,
    "CDEEmbedding with a setting changed later": shortened_later,
    "CDEContextGuard behind a stock index": lambda c: CDEContextGuard(embed_model=c.other).postprocess_nodes(
        asked(c.index)
    ),
}


def new_store_object(case: Case) -> Any:
    case.in_chroma()
    store = chroma(case.folder / "chroma", "ways")
    return asked(VectorStoreIndex.from_vector_store(store, embed_model=case.other))


def parts_read_by_hand(case: Case) -> Any:
    storage = case.storage()
    struct = storage.index_store.index_structs()[0]
    return asked(VectorStoreIndex(index_struct=struct, storage_context=storage, embed_model=case.other))


def file_read_by_hand(case: Case) -> Any:
    store = SimpleVectorStore.from_persist_dir(str(case.saved()))
    return store.query(VectorStoreQuery(query_embedding=case.other.get_query_embedding(QUERY), similarity_top_k=1)).ids


def stock_class(case: Case) -> Any:
    folder = str(case.folder / "stock")
    VectorStoreIndex.from_documents(corpus(12), embed_model=case.own).storage_context.persist(folder)
    storage = StorageContext.from_defaults(persist_dir=folder)
    return asked(load_index_from_storage(storage, embed_model=case.other))


def version_0_1_0(case: Case) -> Any:
    """Open a stored index of version 0.1.0, whose record is of LlamaIndex's own type."""
    storage = StorageContext.from_defaults(persist_dir=str(ROOT / "tests" / "fixtures" / "llama_index"))
    return asked(load_index_from_storage(storage, embed_model=case.mock))


def other_index_class(case: Case) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = DocumentSummaryIndex.from_documents(corpus(2), llm=LLM, embed_model=case.own)
    return DocumentSummaryIndexEmbeddingRetriever(index, embed_model=case.other).retrieve(QUERY)


def summary_index(case: Case) -> Any:
    """Ask nodes that bear the vectors of a pipeline."""
    index = SummaryIndex(case.own(corpus(2)))
    return index.as_retriever(retriever_mode="embedding", embed_model=case.other).retrieve(QUERY)


OPEN: dict[str, Callable[[Case], Any]] = {
    "VectorStoreIndex.from_vector_store with a new store object": new_store_object,
    "VectorStoreIndex over parts that were read from the disk by hand": parts_read_by_hand,
    "SimpleVectorStore.from_persist_dir": file_read_by_hand,
    "index.vector_store.client": lambda c: c.in_chroma().vector_store.client.query(
        query_embeddings=[list(c.other.get_query_embedding(QUERY))], n_results=1
    )["ids"],
    "an index built by a stock class": stock_class,
    "load_index_from_storage of an index of version 0.1.0": version_0_1_0,
    "DocumentSummaryIndex, PropertyGraphIndex, KnowledgeGraphIndex, MultiModalVectorStoreIndex": other_index_class,
    "SummaryIndexEmbeddingRetriever, TreeSelectLeafEmbeddingRetriever": summary_index,
}


@pytest.fixture
def case(checkpoint: Path, tmp_path: Path) -> Case:
    return Case(checkpoint, tmp_path)


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("way", GUARDED)
def test_a_guarded_way_refuses_another_context(way, case):
    wrong_class = r"expected a CDEEmbedding"
    with pytest.raises((ContextError, ConfigError, TypeError)) as caught:
        GUARDED[way](case)
    assert not isinstance(caught.value, TypeError) or re.search(wrong_class, str(caught.value))


@pytest.mark.parametrize("way", OPEN)
def test_an_open_way_answers(way, case):
    if "0.1.0" in way:
        case.mock = MockEmbedding(embed_dim=version_width())
    assert OPEN[way](case)


def version_width() -> int:
    store = SimpleVectorStore.from_persist_dir(str(ROOT / "tests" / "fixtures" / "llama_index"))
    return len(next(iter(store.data.embedding_dict.values())))


def test_the_security_page_lists_the_ways():
    section = SECURITY.read_text().partition("## LlamaIndex")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (yes|no) \|", section, re.MULTILINE)
    listed = {answer: [re.sub("`", "", way) for way, said in rows if said == answer] for answer in ("yes", "no")}
    assert listed == {"yes": list(GUARDED), "no": list(OPEN)}


def test_every_public_retriever_that_embeds_is_listed():
    """Indices of graphs are listed in place of their retrievers; these postprocessors embed both sides themselves."""
    elsewhere = {"KGTableRetriever", "VectorContextRetriever"}
    both_sides = {"EmbeddingRecencyPostprocessor", "SentenceEmbeddingOptimizer"}
    embeds, page = re.compile(r"get_\w*embedding\w*\(|VectorStoreQuery\("), SECURITY.read_text()
    found = set()
    for module in ("retrievers", "indices", "postprocessor", "query_engine", "chat_engine", "memory"):
        public = import_module(f"llama_index.core.{module}")
        found |= {one for name in public.__all__ if inspect.isclass(one := getattr(public, name, None))}
    names = {one.__name__ for one in found if embeds.search(inspect.getsource(one))}
    assert {"VectorIndexRetriever", "VectorMemoryBlock"} < names
    assert {name for name in names - elsewhere - both_sides if name not in page} == set()


def test_with_its_own_context_the_ways_answer(case):
    """So that a refusal above is one of the other context."""
    own = case.own
    retriever = VectorIndexRetriever(case.index, embed_model=own)
    assert retriever.retrieve(QUERY)
    assert asyncio.run(retriever.aretrieve(QUERY))
    assert case.index.as_query_engine(llm=LLM).query(QUERY).source_nodes
    assert VectorIndexAutoRetriever(
        case.index, VectorStoreInfo(content_info="", metadata_info=[]), llm=LLM, embed_model=own
    ).retrieve(QUERY)
    assert QueryFusionRetriever([retriever], num_queries=1, llm=LLM, use_async=False).retrieve(QUERY)
    assert RecursiveRetriever("root", {"root": retriever}).retrieve(QUERY)
    assert AutoMergingRetriever(retriever, case.index.storage_context).retrieve(QUERY)
    assert asked(load_index_from_storage(case.storage(), embed_model=own))
    assert asked(case.stock(own))
    assert second_run(case, own)
    index = in_parts(case)
    assert index.as_retriever(embed_model=case.own.dense_part()).retrieve(QUERY)
    assert asked_by_stock(in_qdrant(case), case.own.dense_part(), "hybrid")
    assert CDEContextGuard(embed_model=own).postprocess_nodes(asked(case.index))
