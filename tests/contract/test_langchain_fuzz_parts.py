"""Random sequences over LangChain stores that keep documents in two parts: no answer under two contexts.

What is right must rank exactly as an oracle does (`tests.contract.parts_oracle`); what is wrong must raise, and must
leave the store as it was: other embeddings, their vectors, their files, swaps of what a store embeds with.
"""

import asyncio
import pickle
import random
import shutil
import uuid
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from cde_retriever import langchain as cde
from cde_retriever.errors import ContextError
from cde_retriever.search.index_file import FILE_NAME
from tests.contract.langchain_corpus import FAISS, corpus, load_faiss, texts_of
from tests.contract.parts_oracle import MODES, QUERIES, PartsOracle, play_sequences

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from langchain_chroma import Chroma

STORES = (InMemoryVectorStore, FAISS, Chroma)


class Case:
    """A store, the documents that are in it by id, and where it is."""

    def __init__(self, store: Any, kind: type, documents: dict[str, Document], place: Path) -> None:
        self.store, self.kind, self.documents, self.place = store, kind, documents, place
        self.embedding = store.embeddings
        self.context = self.embedding.context


class World:
    """Stores of several contexts, and what users do with them."""

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
        kind, place = self.rng.choice(STORES), self.folder / self.new_name()
        embedding = cde.CDEEmbeddings(model_name=self.checkpoint)
        if self.cases and self.rng.random() < 0.3:  # under a context that another store has
            embedding.load_context(self.rng.choice(self.cases).context)
        documents = [
            document.model_copy(update={"id": str(uuid.UUID(int=self.rng.getrandbits(128)))})
            for document in corpus(self.rng.randrange(3), 8)
        ]
        settings = {"collection_name": f"c-{uuid.uuid4().hex}"} if kind is Chroma else {}
        store = cde.from_documents(kind, documents, embedding, context_dir=place, hybrid=True, **settings)
        self.cases.append(Case(store, kind, {str(d.id): d for d in documents}, place))

    def add(self) -> None:
        case = self.rng.choice(self.cases)
        name = self.rng.choice([self.new_name(), *([] if case.kind is FAISS else sorted(case.documents)[:1])])
        document = corpus(100 + self.made, 1)[0].model_copy(update={"id": name})
        self.new_name()
        if self.rng.random() < 0.3:
            asyncio.run(case.store.aadd_documents([document]))
        else:
            case.store.add_documents([document])
        case.documents[name] = document

    def delete(self) -> None:
        case = self.rng.choice(self.cases)
        if len(case.documents) > 3:
            name = self.rng.choice(sorted(case.documents))
            case.store.delete([name])
            del case.documents[name]

    def query(self) -> None:
        case, mode, query, count = self.rng.choice(self.cases), *self.asked()
        chosen, settings = list(case.documents.values()), {}
        if mode != "dense" and self.rng.random() < 0.3:
            source = self.rng.choice(chosen).metadata["source"]
            chosen = [document for document in chosen if document.metadata["source"] == source]
            settings = {"search_kwargs": {"filter": {"source": source}}}
        retriever = cde.CDERetriever(store=case.store, embedding=case.embedding, mode=mode, k=count, **settings)
        found = asyncio.run(retriever.ainvoke(query)) if count % 3 == 0 else retriever.invoke(query)
        self.oracle.judge(case.context, texts_of(chosen), texts_of(found), query, mode, count)
        self.counts["answered"] += 1

    def asked(self) -> tuple[str, str, int]:
        return self.rng.choice(MODES), self.rng.choice(QUERIES), self.rng.randrange(1, 12)

    def saved(self, case: Case) -> Path:
        if case.kind is not Chroma:
            cde.save_local(case.store, case.place)
        return case.place

    def opened(self, case: Case, folder: Path, embedding: cde.CDEEmbeddings | None = None) -> Any:
        openers = {
            InMemoryVectorStore: lambda e: InMemoryVectorStore.load(str(folder / "store.json"), e),
            FAISS: lambda e: load_faiss(folder, e),
            Chroma: lambda e: Chroma(case.store._collection.name, e),
        }
        embedding = embedding or cde.CDEEmbeddings(model_name=self.checkpoint)
        return cde.open(openers[case.kind], folder, embedding=embedding)

    def reopen(self) -> None:
        case = self.rng.choice(self.cases)
        if case.kind is not Chroma and self.rng.random() < 0.3:
            case.store = pickle.loads(pickle.dumps(case.store))
        else:
            case.store = self.opened(case, self.saved(case))
        case.embedding = case.store.embeddings

    def wrong(self, name: str) -> None:
        """Do something under a wrong context, which must raise."""
        case = self.rng.choice(self.cases)
        others = [one for one in self.cases if one.context.fingerprint != case.context.fingerprint]
        if not others:
            return
        source = self.rng.choice(others)
        other = cde.CDEEmbeddings(model_name=self.checkpoint, context=source.context)
        other = other.dense_part() if self.rng.random() < 0.7 else other
        mode, query, count = self.asked()
        uses = {
            "query": lambda: cde.CDERetriever(store=case.store, embedding=other, mode=mode, k=count).invoke(query),
            "vector": lambda: case.store.similarity_search_by_vector(other.embed_query(query)),
            "open": lambda: self.opened(case, self.saved(case), other),
            "guard": lambda: cde.guard(case.store, other),
            "swap": lambda: self.swapped(case, other, query),
            "copy": lambda: self.opened(case, self.copied(case, source)),
        }
        with pytest.raises(ContextError):
            uses[name]()
        self.counts[f"refused {name}"] += 1

    def swapped(self, case: Case, other: cde.CDEEmbeddings, query: str) -> None:
        name = {InMemoryVectorStore: "embedding", FAISS: "embedding_function", Chroma: "_embedding_function"}[case.kind]
        own = getattr(case.store, name)
        setattr(case.store, name, other)
        try:
            if self.rng.random() < 0.5:
                case.store.add_documents([Document("ratul baron", id=sorted(case.documents)[0])])
            else:
                case.store.similarity_search(query)
        finally:
            setattr(case.store, name, own)

    def copied(self, case: Case, source: Case) -> Path:
        """Return a copy of a store's folder with the parts of a store under another context."""
        folder = Path(shutil.copytree(self.saved(case), self.folder / self.new_name()))
        shutil.copy(self.saved(source) / FILE_NAME, folder)
        (folder / "checksums.json").unlink(missing_ok=True)
        return folder


RIGHT = ("build", "add", "add", "delete", "query", "query", "query", "reopen")
WRONG = ("query", "vector", "open", "guard", "swap", "swap", "copy")


def test_no_sequence_over_two_parts_gives_a_result_under_two_contexts(tmp_path):
    play_sequences(tmp_path, World, RIGHT, WRONG)
