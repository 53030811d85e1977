"""Arguments that users get wrong at every door: a sentence with the value and what to do, before any text is read."""

import re
from dataclasses import replace

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document

from cde_retriever import ConfigError, ContextMismatchError, ContextualEncoder
from cde_retriever import langchain as cde
from cde_retriever.cli.main import main
from cde_retriever.errors import OutputError
from cde_retriever.lifecycle.migrate import migrate
from cde_retriever.llama_index import CDEEmbedding, CDERoutedIndex, CDEVectorStoreIndex
from tests.tiny import HEADED, documents, tiny_encoder

TEXTS = documents(6)
NODES = [Document(text=text) for text in TEXTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoder(**HEADED).save_pretrained(tmp_path_factory.mktemp("model") / "head")


@pytest.fixture(scope="module")
def encoder(folder):
    made = ContextualEncoder.from_pretrained(folder, device="cpu")
    made.fit_context(TEXTS)
    return made


@pytest.mark.parametrize(
    ("kinds", "error", "message"),
    [
        (["a"] * 5, ConfigError, "there are only 5 kinds, fewer than the others; give a kind for each document"),
        (["a"] * 7, ConfigError, "there are only 6 documents, fewer than the others"),
        ("abcdef", TypeError, "kinds must be one for each document, received one text: 'abcdef'"),
    ],
)
def test_kinds_are_one_a_document(encoder, kinds, error, message):
    with pytest.raises(error, match=message):
        encoder.fork().fit_context(TEXTS, kinds=kinds, selection="stratified")


@pytest.mark.parametrize(
    ("chunks_of", "error", "message"),
    [
        ([[1], *"bcdef"], TypeError, r"chunks_of\[0\] is \[1\] \(.*unhashable.*\), expected a name such as an id"),
        ("abcdef", TypeError, "chunks_of must name a document for each text, received one text: 'abcdef'"),
        (["a"], ConfigError, "chunks_of names 1 documents for 6 texts; give one for each"),
    ],
)
def test_chunks_are_named_one_by_one(encoder, chunks_of, error, message):
    with pytest.raises(error, match=message):
        encoder.encode_documents(TEXTS, chunks_of=chunks_of)


def test_a_context_of_a_model_of_another_name_asks_for_that_model_whatever_its_prompts(encoder):
    fitted = encoder.fork().fit_context(TEXTS)
    other = replace(fitted, model=replace(fitted.model, name="bge-small", prompts={"query": "ask: ", "document": ""}))
    with pytest.raises(
        ContextMismatchError, match=r"'bge-small' with prompts .*; load that model, by its folder or Hub id"
    ):
        encoder.fork().set_context(other)


def test_a_context_of_a_bundled_model_asks_for_that_model_and_not_for_its_length(encoder):
    fitted = encoder.fork().fit_context(TEXTS)
    other = replace(fitted, model=replace(fitted.model, name="cde-minilm-l6-v4", max_length=256))
    with pytest.raises(ContextMismatchError, match=r"with max_length 256, .*, which is bundled, by its name 'cde-mini"):
        encoder.fork().set_context(other)


def test_a_context_of_another_length_names_the_setting(encoder, folder):
    longer = ContextualEncoder.from_pretrained(folder, device="cpu", max_length=128).fit_context(TEXTS)
    with pytest.raises(ContextMismatchError, match="load that model with max_length=128, or fit a context with this"):
        encoder.fork().set_context(longer)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda model, _: CDERoutedIndex.from_documents(NODES, kinds="3", embed_model=CDEEmbedding(model)),
            TypeError,
            "kinds must be a whole number, received '3'",
        ),
        (
            lambda model, place: CDEVectorStoreIndex.from_storage(place, str(model)),
            TypeError,
            "embed_model is str, expected a CDEEmbedding",
        ),
        (lambda _m, _p: cde.drift(3), TypeError, "expected a guarded store, received int: 3"),
        (
            lambda _m, _p: cde.from_documents(InMemoryVectorStore, ["a"]),
            TypeError,
            r"document 0 is str, expected Document: 'a'; LangChain's Document\(text\) makes one of a text",
        ),
        (
            lambda model, _: CDEVectorStoreIndex(NODES, embed_model=CDEEmbedding(model), keep_plain="yes"),
            TypeError,
            "keep_plain must be True or False, received 'yes'",
        ),
        (
            lambda _m, _p: cde.from_documents(InMemoryVectorStore, [LangChainDocument("a")], keep_plain="no"),
            TypeError,
            "keep_plain must be True or False, received 'no'",
        ),
        (
            lambda _, place: migrate(place / "old", place / "new", keep_plain="no"),
            TypeError,
            "keep_plain must be True or False, received 'no'",
        ),
    ],
)
def test_what_the_doors_refuse(folder, tmp_path, call, error, message):
    with pytest.raises(error, match=message):
        call(folder, tmp_path)


def test_a_routed_index_is_asked_by_a_number_and_written_to_a_folder(folder, tmp_path):
    index = CDERoutedIndex.from_documents(NODES, kinds=1, embed_model=CDEEmbedding(folder))
    with pytest.raises(TypeError, match="contexts must be a whole number, received 'a'"):
        index.as_retriever(contexts="a")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path / 'file'} holds something else")):
        index.persist(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "{file}"], "{file} holds no context; name a .safetensors file of one, or the folder of an index"),
        (["serve", "--null", "--store", "{file}"], "{file} is a file; give a folder to write into"),
        (["serve", "--null", "--most-contexts", "0"], "--most-contexts must be at least 1, received 0"),
        (["serve", "--null", "--most-bytes", "-1"], "--most-bytes must be at least 1, received -1"),
        (["explore", "index", "-o", "{file}"], "{file} is a file; give a folder to write into"),
        (["explore", "index", "--query", " "], "--query is empty; give words to search for, or leave it out"),
        (["doctor", "corpus", "-o", "{file}"], "{file} is a file; give a folder to write into"),
    ],
)
def test_what_the_commands_refuse(folder, tmp_path, capsys, arguments, message):
    file = tmp_path / "some.md"
    file.write_text("a text")
    given = [argument.format(file=file) for argument in arguments]
    assert main([*given, "--model", str(folder)]) == 2
    assert message.format(file=file) in capsys.readouterr().err
    assert file.read_text() == "a text"
