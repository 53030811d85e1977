"""Documents are split to what the model reads, and what it did not read is said once, with the way out."""

import warnings

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from cde_retriever import TruncationWarning
from cde_retriever.langchain import CDEEmbeddings, from_documents
from tests.contract.langchain_corpus import QUERY
from tests.tiny import documents as made_up

LONG = [Document(" ".join(made_up(12, seed)) + "\n\nend " + "unsplittableword" * 20) for seed in range(3)]


@pytest.fixture
def embedding(checkpoint) -> CDEEmbeddings:
    return CDEEmbeddings(model_name=checkpoint)


def splitter(embedding: CDEEmbeddings, overlap: int = 0) -> RecursiveCharacterTextSplitter:
    return RecursiveCharacterTextSplitter(
        chunk_size=embedding.max_tokens, chunk_overlap=overlap, length_function=embedding.count_tokens
    )


def test_the_room_for_a_text_is_what_the_model_reads(embedding):
    word = next(word for word in made_up(5, 0)[0].split() if embedding.count_tokens(word) == 1)
    fits = " ".join([word] * embedding.max_tokens)
    assert embedding.count_tokens(fits) == embedding.max_tokens
    assert not embedding.encoder.tokenize([fits]).truncated
    assert embedding.encoder.tokenize([f"{fits} {word}"]).truncated == [0]


@pytest.mark.parametrize("overlap", [0, 5])
def test_what_was_split_for_the_model_is_embedded_whole(overlap, embedding):
    parts = splitter(embedding, overlap).split_documents(LONG)
    assert len(parts) > len(LONG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = from_documents(InMemoryVectorStore, parts, embedding)
    assert store.similarity_search(QUERY)


def test_one_summary_for_a_store_that_embeds_in_batches(embedding):
    class InTwos(InMemoryVectorStore):
        """Embeds two documents at a time."""

        def add_documents(self, documents, ids=None, **kwargs):
            for i in range(0, len(documents), 2):
                super().add_documents(documents[i : i + 2], None if ids is None else ids[i : i + 2], **kwargs)
            return []

    short = [Document("ba ko"), Document("mi lu")]
    tokens = [embedding.count_tokens(document.page_content) for document in LONG]
    with pytest.warns(TruncationWarning) as caught:
        from_documents(InTwos, [*LONG, *short], embedding)
    assert len(caught) == 1
    summary = caught[0].message
    assert (summary.cut, summary.texts, summary.tokens) == (3, 5, sum(tokens))
    assert summary.lost == sum(tokens) - 3 * embedding.max_tokens
    assert "RecursiveCharacterTextSplitter(chunk_size=embedding.max_tokens" in str(summary)
