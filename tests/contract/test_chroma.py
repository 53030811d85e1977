"""A Chroma collection keeps what made its vectors, and Chroma refuses another context."""

import chromadb
import numpy as np
import pytest

from cde_retriever.chroma import CDEEmbeddingFunction
from cde_retriever.context.context import FILE_NAME, Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ContextMismatchError
from tests.tiny import documents

TEXTS, OTHERS = documents(40), documents(40, seed=3)
QUERY = "baron kolak"


@pytest.fixture
def function(tmp_path, prompted):
    return CDEEmbeddingFunction.fit(TEXTS, tmp_path / "context", prompted)


@pytest.fixture
def other(tmp_path, prompted):
    return CDEEmbeddingFunction.fit(OTHERS, tmp_path / "other", prompted)


@pytest.fixture
def client(tmp_path, function):
    client = chromadb.PersistentClient(str(tmp_path / "db"))
    collection = client.create_collection("docs", embedding_function=function)
    collection.add(ids=[str(i) for i in range(40)], documents=TEXTS)
    return client


def distances(collection):
    return np.array(collection.query(query_texts=[QUERY], n_results=40)["distances"][0])


def expected(prompted):
    encoder = ContextualEncoder.from_pretrained(prompted)
    encoder.fit_context(TEXTS)
    return np.sort(1 - encoder.encode_documents(TEXTS) @ encoder.encode_queries([QUERY])[0])


def test_distances_are_those_of_the_encoder(client, function, prompted):
    found = distances(client.get_collection("docs", embedding_function=function))
    assert found == pytest.approx(expected(prompted), abs=1e-5)


def test_without_a_function_chroma_makes_it_anew(client, prompted):
    assert distances(client.get_collection("docs")) == pytest.approx(expected(prompted), abs=1e-5)


@pytest.mark.parametrize("way", ["get_collection", "get_or_create_collection"])
def test_chroma_refuses_another_context(client, other, way):
    with pytest.raises(ValueError, match="Embedding function conflict"):
        getattr(client, way)("docs", embedding_function=other)


def test_chroma_refuses_fewer_numbers(client, tmp_path, prompted):
    cut = CDEEmbeddingFunction(tmp_path / "context", prompted, truncate_dim=16)
    with pytest.raises(ValueError, match=f"{cut.context.fingerprint}/16"):
        client.get_collection("docs", embedding_function=cut)


def test_another_context_in_the_place_of_the_first_is_refused(client, function, other, tmp_path):
    (tmp_path / "other" / FILE_NAME).replace(tmp_path / "context" / FILE_NAME)
    with pytest.raises(ValueError, match="was embedded under context"):
        distances(client.get_collection("docs"))
    with pytest.raises(ContextMismatchError, match=function.stamp[:12]):
        CDEEmbeddingFunction.build_from_config(function.get_config())


def test_the_way_of_chroma_that_compares_nothing(client, other):
    """docs/security.md says so; when this fails, Chroma guards it and the page can say yes."""
    opened = client.create_collection("docs", embedding_function=other, get_or_create=True)
    assert opened.count() == 40


def test_no_context_at_the_path(tmp_path, prompted):
    with pytest.raises(FileNotFoundError, match="no context at"):
        CDEEmbeddingFunction(tmp_path / "nothing", prompted)


def test_config_round_trip(function, tmp_path):
    config = function.get_config()
    again = CDEEmbeddingFunction.build_from_config(config)
    assert config["stamp"] == Context.load(tmp_path / "context").fingerprint
    assert again.get_config() == config
    assert np.allclose(again([QUERY]), function([QUERY]))
    assert not np.allclose(again([QUERY]), again.embed_query([QUERY]))  # prompts differ
