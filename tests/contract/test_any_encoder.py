"""Any encoder by name in both frameworks: what is said of it arrives, and an index made with it opens again."""

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document, StorageContext

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.plain_models import PROMPTS, save_model, save_transformer
from tests.tiny import documents


def test_llama_index(tmp_path):
    save_model(tmp_path, pooling="cls", prompts=PROMPTS)
    folder = str(tmp_path / "model")
    embedding = CDEEmbedding(folder, max_length=40, device="cpu")
    index = CDEVectorStoreIndex.from_documents([Document(text=text) for text in documents(30)], embed_model=embedding)
    found = [node.text for node in index.as_retriever(similarity_top_k=3).retrieve("baron kolak")]
    index.storage_context.persist(tmp_path / "index")

    def reopened(**said):
        storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "index"))
        stored = CDEEmbedding.from_storage(storage, folder, device="cpu", **said)
        opened = CDEVectorStoreIndex.from_storage(storage, stored)
        return [node.text for node in opened.as_retriever(similarity_top_k=3).retrieve("baron kolak")]

    assert reopened(max_length=40) == found
    with pytest.raises(ContextMismatchError, match="max_length"):
        reopened()


def test_langchain(tmp_path):
    folder = save_transformer(tmp_path / "x", "xlm-roberta", "unigram")
    embeddings = CDEEmbeddings(model_name=folder, pooling="mean", prompts=PROMPTS, device="cpu")
    embeddings.fit(documents(30))
    store = InMemoryVectorStore(embeddings)
    store.add_texts(documents(30))
    encoder = ContextualEncoder.from_pretrained(folder, pooling="mean", prompts=PROMPTS, device="cpu")
    encoder.set_context(embeddings.context)
    scores = encoder.encode_documents(documents(30)) @ encoder.encode_queries(["baron kolak"])[0]
    best = store.similarity_search("baron kolak", k=1)[0].page_content
    assert best == documents(30)[int(np.argmax(scores))]


@pytest.mark.parametrize("kind", [CDEEmbedding, CDEEmbeddings])
def test_the_size_of_a_short_vector(tmp_path, kind):
    save_model(tmp_path)
    embedding = kind(model_name=str(tmp_path / "model"), vector_size=24, device="cpu")
    embedding.fit(documents(20))
    again = kind(model_name=str(tmp_path / "model"), vector_size=24, context=embedding.context, device="cpu")
    query = "get_query_embedding" if kind is CDEEmbedding else "embed_query"
    vector = np.array(getattr(embedding, query)("baron kolak"))
    assert vector.shape == (24,)
    np.testing.assert_allclose(getattr(again, query)("baron kolak"), vector, atol=1e-5)
    with pytest.raises(ContextMismatchError, match="was made by model"):
        kind(model_name=str(tmp_path / "model"), context=embedding.context, device="cpu")


@pytest.mark.parametrize("kind", [CDEEmbedding, CDEEmbeddings])
def test_the_language_of_the_corpus(tmp_path, kind):
    save_model(tmp_path)
    embedding = kind(model_name=str(tmp_path / "model"), language="german", device="cpu")
    embedding.fit(documents(20))
    assert embedding.context.words.language == "german"
    fingerprint = embedding.context_fingerprint
    embedding.fit(documents(20))  # the same corpus in the same language gives the same context
    assert embedding.context_fingerprint == fingerprint
    english = kind(model_name=str(tmp_path / "model"), context=embedding.context, device="cpu")
    with pytest.raises(ContextMismatchError, match="for life"):
        english.fit(documents(20))
    with pytest.raises(ConfigError, match="language is 'klingon', which Snowball has no stemmer for"):
        kind(model_name=str(tmp_path / "model"), language="klingon", device="cpu").fit(documents(20))
