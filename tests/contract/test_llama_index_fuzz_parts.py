"""Random sequences over LlamaIndex indexes in two parts, in memory and beside Chroma: no answer under two contexts.

What is right must rank exactly as an oracle does (`tests.contract.parts_oracle`); what is wrong must raise, and must
leave the index as it was: other embeddings, nodes embedded by them, their files, swaps of an index's own embedding.
"""

import asyncio
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from llama_index.core import StorageContext
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.errors import ContextError
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from cde_retriever.search.index_file import FILE_NAME
from tests.contract.llama_index_corpus import chroma, corpus
from tests.contract.parts_oracle import MODES, QUERIES, PartsOracle, play_sequences

IN_MEMORY = "cde_parts__vector_store.json"


class Case:
    """An index, the documents that are in it by id, and the folder of its context where its store is external."""

    def __init__(self, index: CDEVectorStoreIndex, documents: dict, folder: Path | None) -> None:
        self.index, self.documents, self.folder = index, documents, folder
        self.context = index.embedding.context


class World:
    """Indexes of several contexts, and what users do with them."""

    def __init__(
        self, checkpoint: Path, folder: Path, oracle: PartsOracle, rng: random.Random, counts: Counter
    ) -> None:
        self.checkpoint, self.folder, self.oracle, self.rng, self.counts = checkpoint, folder, oracle, rng, counts
        self.cases: list[Case] = []
        self.made = 0

    def new_name(self) -> str:
        self.made += 1
        return f"new-{self.made}"

    def build(self) -> None:
        seed, folder = self.rng.randrange(3), None
        embedding, place = CDEEmbedding(self.checkpoint), {}
        if self.cases and self.rng.random() < 0.3:  # under a context that another index has
            embedding.load_context(self.rng.choice(self.cases).context)
        if self.rng.random() < 0.5:
            folder = self.folder / self.new_name()
            storage = StorageContext.from_defaults(vector_store=chroma())
            place = {"storage_context": storage, "context_dir": folder, "parts": "both"}
        documents = corpus(8, seed)
        index = CDEVectorStoreIndex.from_documents(documents, embed_model=embedding, **place)
        self.cases.append(Case(index, {document.id_: document for document in documents}, folder))

    def insert(self) -> None:
        case, document = self.rng.choice(self.cases), corpus(1, 100 + self.made)[0]
        document.id_ = self.new_name()
        case.index.insert(document)
        case.documents[document.id_] = document

    def delete(self) -> None:
        case = self.rng.choice(self.cases)
        if len(case.documents) > 3:
            name = self.rng.choice(sorted(case.documents))
            case.index.delete_ref_doc(name, delete_from_docstore=True)
            del case.documents[name]

    def query(self) -> None:
        case, mode, query, count = self.rng.choice(self.cases), *self.asked()
        chosen, filters = dict(case.documents), None
        if self.rng.random() < 0.3:
            chosen = dict(self.rng.sample(sorted(chosen.items()), 3))
            names = [document.metadata["file_name"] for document in chosen.values()]
            only = MetadataFilter(key="file_name", value=names, operator=FilterOperator.IN)
            chosen = {n: d for n, d in case.documents.items() if d.metadata["file_name"] in names}
            filters = MetadataFilters(filters=[only])
        retriever = case.index.as_retriever(mode=mode, similarity_top_k=count, filters=filters)
        found = asyncio.run(retriever.aretrieve(query)) if count % 3 == 0 else retriever.retrieve(query)
        texts = [embedded_text(node.node) for node in found]
        self.oracle.judge(case.context, [embedded_text(d) for d in chosen.values()], texts, query, mode, count)
        self.counts["answered"] += 1

    def asked(self) -> tuple[str, str, int]:
        return self.rng.choice(MODES), self.rng.choice(QUERIES), self.rng.randrange(1, 12)

    def reopen(self) -> None:
        case = self.rng.choice(self.cases)
        case.index = self.opened(case, self.saved(case))

    def saved(self, case: Case) -> Path:
        return case.folder or case.index.persist(self.folder / self.new_name())

    def opened(self, case: Case, folder: Path, embedding: CDEEmbedding | None = None) -> CDEVectorStoreIndex:
        embedding = embedding or CDEEmbedding(self.checkpoint, context=case.context)
        if case.folder is None:
            return CDEVectorStoreIndex.from_storage(folder, embedding)
        return CDEVectorStoreIndex.from_vector_store(case.index.vector_store, embedding, context_dir=folder)

    def two(self) -> tuple[Case, CDEEmbedding] | None:
        """Return an index and an embedding under the context of another; None if there is no other."""
        case = self.rng.choice(self.cases)
        others = [one for one in self.cases if one.context.fingerprint != case.context.fingerprint]
        if not others:
            return None
        other = CDEEmbedding(self.checkpoint, context=self.rng.choice(others).context)
        return case, other.dense_part() if self.rng.random() < 0.7 else other

    def wrong(self, name: str) -> None:
        """Do something under a wrong context, which must raise."""
        pair = self.two()
        if pair is None:
            return
        case, other = pair
        mode, query, count = self.asked()
        uses = {
            "query": lambda: case.index.as_retriever(mode=mode, embed_model=other).retrieve(query),
            "stock": lambda: VectorIndexRetriever(case.index, embed_model=other, similarity_top_k=count).retrieve(
                query
            ),
            "open": lambda: self.opened(case, self.saved(case), other),
            "insert": lambda: case.index.insert_nodes(other(self.same_nodes(case))),
            "swap": lambda: self.swapped(case, other, mode, query),
            "copy": lambda: self.opened(case, self.copied(case, other)),
        }
        with pytest.raises(ContextError):
            uses[name]()
        self.counts[f"refused {name}"] += 1

    def same_nodes(self, case: Case) -> list:
        """Return nodes with ids that the index holds, and other texts."""
        store = case.index.vector_store
        nodes = store.get_nodes(None) if store.stores_text else list(case.index.docstore.docs.values())
        return [node.model_copy(update={"text": "ratul baron", "embedding": None}) for node in nodes[:2]]

    def swapped(self, case: Case, other: CDEEmbedding, mode: str, query: str) -> None:
        own, case.index._embed_model = case.index._embed_model, other
        try:
            if self.rng.random() < 0.5:
                case.index.insert_nodes(self.same_nodes(case))
            else:
                case.index.as_retriever(mode=mode).retrieve(query)
        finally:
            case.index._embed_model = own

    def copied(self, case: Case, other: CDEEmbedding) -> Path:
        """Return a copy of an index's folder with the parts of an index under another context."""
        fingerprint = other.context_fingerprint
        source = next(one for one in self.cases if one.context.fingerprint == fingerprint)
        name = IN_MEMORY if case.folder is None else FILE_NAME
        folder = Path(shutil.copytree(self.saved(case), self.folder / self.new_name()))
        if (source.folder is None) == (case.folder is None):
            shutil.copy(self.saved(source) / name, folder)
        else:  # the other kind of file
            (folder / name).write_bytes((folder / name).read_bytes()[:-9])
        return folder


RIGHT = ("build", "insert", "insert", "delete", "query", "query", "query", "reopen")
WRONG = ("query", "stock", "open", "insert", "swap", "swap", "copy")


def test_no_sequence_over_two_parts_gives_a_result_under_two_contexts(tmp_path):
    play_sequences(tmp_path, World, RIGHT, WRONG)
