"""Nodes that the model reads whole, and one word on what it did not read."""

import pickle
import random
import warnings

import pytest
from llama_index.core import Document, Settings, StorageContext
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode

from cde_retriever import ContextualEncoder, TruncationWarning
from cde_retriever.adapters.llama_index.splitting import ModelSentenceSplitter
from cde_retriever.adapters.llama_index.storage import embedded_text
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from tests.tiny import WORDS

READ = 64 - 2  # tokens of a text that the tiny model reads, beside [CLS] and [SEP]


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch) -> None:
    monkeypatch.setattr(Settings, "_node_parser", None)
    monkeypatch.setattr(Settings, "_transformations", None)


def long_documents(count: int = 6, words: int = 300, **metadata: str) -> list[Document]:
    """Return documents of which each word is a token."""
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(WORDS, k=9)) + "." for _ in range(count * words // 9)]
    step = len(sentences) // count
    return [
        Document(text=" ".join(sentences[i * step : (i + 1) * step]), id_=f"d{i}", metadata=metadata)
        for i in range(count)
    ]


def lengths(nodes, checkpoint) -> list[int]:
    """Count tokens by a tokenizer of the test's own, without special ones."""
    tokenizer = ContextualEncoder.from_pretrained(checkpoint).tokenizer
    return [len(tokenizer.encode(embedded_text(node), add_special_tokens=False).ids) for node in nodes]


@pytest.mark.parametrize("metadata", [{}, {"title": "baron kolak misim", "file": "a b c"}])
def test_every_word_is_embedded_by_default(checkpoint, metadata) -> None:
    documents = long_documents(**metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        index = CDEVectorStoreIndex.from_documents(documents, embed_model=CDEEmbedding(checkpoint))
    nodes = list(index.docstore.docs.values())
    found = lengths(nodes, checkpoint)
    assert max(found) <= READ
    assert sorted(found)[len(found) // 2] > READ // 2  # and no shorter than need be
    for document in documents:
        parts = " ".join(node.text for node in nodes if node.ref_doc_id == document.id_)
        assert set(document.text.split()) == set(parts.split())
        assert len(parts.split()) >= len(document.text.split())


def test_inserted_and_refreshed_documents_are_split_alike_in_an_opened_index(checkpoint, tmp_path) -> None:
    documents = long_documents()
    CDEVectorStoreIndex.from_documents(documents, embed_model=CDEEmbedding(checkpoint)).persist(tmp_path / "index")
    embedding = CDEEmbedding.from_storage(tmp_path / "index", checkpoint)
    index = CDEVectorStoreIndex.from_storage(tmp_path / "index", embedding)
    added = Document(text=documents[0].text + " Zebra quagga okapi.", id_="d0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        assert index.refresh_ref_docs([added]) == [True]
    last = [node for node in index.docstore.docs.values() if "okapi" in node.text]
    assert len(last) == 1
    assert lengths(last, checkpoint)[0] <= READ
    found = index.as_retriever(similarity_top_k=1).retrieve(embedded_text(last[0]))
    assert found[0].node_id == last[0].node_id


def test_what_the_user_chose_is_used(checkpoint, monkeypatch) -> None:
    documents = long_documents()

    def count(**settings) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            index = CDEVectorStoreIndex.from_documents(documents, embed_model=CDEEmbedding(checkpoint), **settings)
        return len(index.docstore.docs)

    ours = count()
    assert count(transformations=[SentenceSplitter(chunk_size=40, chunk_overlap=0)]) > ours
    assert Settings.node_parser.chunk_size == 1024  # LlamaIndex's own default, set by asking for it
    assert count() == ours
    assert Settings.transformations == [Settings.node_parser]  # and so do stock indexes
    assert count() == ours
    monkeypatch.setattr(Settings, "_node_parser", SentenceSplitter(chunk_size=2000))
    assert count() == len(documents)
    monkeypatch.setattr(Settings, "_node_parser", None)
    monkeypatch.setattr(Settings, "_transformations", [SentenceSplitter(chunk_size=2000)])
    assert count() == len(documents)


def test_metadata_longer_than_the_model_reads_are_told_of(checkpoint) -> None:
    documents = long_documents(1, note=" ".join(WORDS * 2))
    with pytest.warns(TruncationWarning, match="excluded_embed_metadata_keys"):
        index = CDEVectorStoreIndex.from_documents(documents, embed_model=CDEEmbedding(checkpoint))
    texts = [len(node.text.split()) for node in index.docstore.docs.values()]
    assert max(texts) <= READ // 4


def test_a_splitter_in_another_process_counts_as_the_model_does(checkpoint) -> None:
    splitter = CDEEmbedding(checkpoint).sentence_splitter(chunk_overlap=3)
    splitter.include_prev_next_rel = False
    copy = pickle.loads(pickle.dumps(splitter))
    assert (copy.chunk_size, copy.chunk_overlap, copy.include_prev_next_rel) == (READ, 3, False)
    word = "kolak"  # one token for the model, more for LlamaIndex's own tokenizer
    assert len(copy.split_text(" ".join([word] * READ))) == 1
    assert len(copy.split_text(" ".join([word] * (READ + 1)))) == 2


def test_the_splitter_serves_pipelines(checkpoint) -> None:
    embedding = CDEEmbedding(checkpoint)
    nodes = IngestionPipeline(transformations=[embedding.sentence_splitter(chunk_overlap=0), embedding]).run(
        documents=long_documents()
    )
    assert max(lengths(nodes, checkpoint)) <= READ
    assert sum(len(node.text.split()) for node in nodes) == sum(len(d.text.split()) for d in long_documents())


def test_a_splitter_makes_parts_smaller_until_they_fit() -> None:
    """A tokenizer that needs a token more for each two words that stand together, as byte pairs may."""
    splitter = ModelSentenceSplitter(
        chunk_size=20, chunk_overlap=0, tokenizer=lambda text: [0] * (2 * len(text.split()) - 1)
    )
    text = " ".join(f"w{i}" for i in range(100))
    parts = splitter.split_text_metadata_aware(text, "")
    assert all(2 * len(part.split()) - 1 <= 20 for part in parts)
    assert " ".join(parts) == text


@pytest.mark.parametrize("use_async", [False, True])
def test_one_summary_at_the_end_of_a_run(checkpoint, use_async) -> None:
    """Ten texts, of which four have 100 tokens and the model reads 62: 4 x 38 are lost."""
    nodes = [TextNode(text=" ".join((WORDS * 3)[:100])) for _ in range(4)]
    nodes += [TextNode(text=f"baron {word}") for word in WORDS[:6]]
    with pytest.warns(TruncationWarning) as caught:
        CDEVectorStoreIndex(
            nodes,
            embed_model=CDEEmbedding(checkpoint, embed_batch_size=2),
            insert_batch_size=3,
            use_async=use_async,
        )
    said = [warning.message for warning in caught if isinstance(warning.message, TruncationWarning)]
    assert [(w.cut, w.texts, w.tokens, w.lost, w.max_length) for w in said] == [(4, 10, 400, 152, 64)]
    assert "4 of 10 texts are longer than the 64 tokens this model reads, and 152 of their 400 tokens" in str(said[0])
    assert "transformations=[embed.sentence_splitter()]" in str(said[0])


def test_a_transformation_a_batch_and_one_text_are_runs_too(checkpoint) -> None:
    embedding = CDEEmbedding(checkpoint, embed_batch_size=1)
    embedding.fit(WORDS)
    long = " ".join((WORDS * 3)[:100])
    calls = (
        lambda: embedding([TextNode(text=long), TextNode(text=long), TextNode(text="baron")]),
        lambda: embedding.get_text_embedding_batch([long, "baron", long]),
        lambda: embedding.get_text_embedding(long),
    )
    counts = []
    for call in calls:
        with pytest.warns(TruncationWarning) as caught:
            call()
        counts += [(w.message.cut, w.message.texts) for w in caught if isinstance(w.message, TruncationWarning)]
    assert counts == [(2, 3), (2, 3), (1, 1)]


def test_an_opened_index_with_another_splitter_keeps_it(checkpoint, tmp_path) -> None:
    CDEVectorStoreIndex.from_documents(long_documents(), embed_model=CDEEmbedding(checkpoint)).persist(tmp_path / "i")
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "i"))
    own = SentenceSplitter(chunk_size=33, chunk_overlap=0)
    embedding = CDEEmbedding.from_storage(storage, checkpoint)
    index = CDEVectorStoreIndex.from_storage(storage, embedding, transformations=[own])
    assert index._transformations == [own]
