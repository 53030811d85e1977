"""A bound model in sentence-transformers: vectors, folders, processes, and no vectors without a context."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from cde_retriever.adapters.sentence_transformers.own_modules import own_modules
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError, ConfigError, ContextMismatchError, ContextNotFittedError
from cde_retriever.sentence_transformers import bind, load, save
from tests.tiny import documents, tiny_checkpoint

TEXTS = documents(30)
QUERIES = ["baron kolak", "minor luvex"]
PROMPTS = {"query": "ba: ", "document": "ko: "}


@pytest.fixture
def encoder(prompted):
    return fitted(prompted)


def fitted(folder):
    encoder = ContextualEncoder.from_pretrained(folder)
    encoder.fit_context(TEXTS)
    return encoder


@pytest.fixture
def model(prompted, encoder):
    return bind(encoder.context, prompted)


def assert_same(model, encoder):
    assert np.allclose(model.encode_document(TEXTS), encoder.encode_documents(TEXTS), atol=1e-5)
    assert np.allclose(model.encode_query(QUERIES), encoder.encode_queries(QUERIES), atol=1e-5)


def test_vectors_are_the_encoders(model, encoder):
    assert_same(model, encoder)
    assert np.allclose(model.encode(QUERIES), encoder.encode_documents(QUERIES), atol=1e-6)
    assert np.allclose(model.encode(QUERIES, prompt_name="query"), encoder.encode_queries(QUERIES), atol=1e-6)
    assert model.get_embedding_dimension() == encoder.dimension
    assert model.max_seq_length == encoder.config.max_length
    assert not np.allclose(model.encode_query(QUERIES), model.encode_document(QUERIES))


def test_prompts_and_tasks_of_others_are_refused(model):
    with pytest.raises(ConfigError, match="leave it out"):
        model.encode(QUERIES, prompt="passage: ")
    with pytest.raises(ConfigError, match="expected 'query' or 'document'"):
        model.encode(QUERIES, task="sts")


def test_evaluators_rank_as_the_encoder_does(model, encoder):
    relevant = {"q0": {"d3"}, "q1": {"d7"}}
    evaluator = InformationRetrievalEvaluator(
        {f"q{i}": text for i, text in enumerate(QUERIES)},
        {f"d{i}": text for i, text in enumerate(TEXTS)},
        relevant,
        mrr_at_k=[30],
    )
    ranks = np.argsort(-encoder.encode_queries(QUERIES) @ encoder.encode_documents(TEXTS).T, axis=1)
    places = [list(ranks[0]).index(3), list(ranks[1]).index(7)]
    assert evaluator(model)["cosine_mrr@30"] == pytest.approx(np.mean([1 / (1 + place) for place in places]))


def test_several_processes_give_the_same(model, encoder):
    vectors = model.encode_query(QUERIES * 3, device=["cpu"], chunk_size=4)
    assert np.allclose(vectors, encoder.encode_queries(QUERIES * 3), atol=1e-6)


def test_folder_round_trip(tmp_path, model, encoder):
    model.save_pretrained(str(tmp_path / "saved"))
    again = load(tmp_path / "saved")
    assert_same(again, encoder)
    assert again[0].stamp == model[0].stamp == encoder.context.fingerprint
    assert_same(SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu"), encoder)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path / "saved"))


def test_a_folder_without_its_context_raises(tmp_path, model):
    model.save_pretrained(str(tmp_path / "saved"))
    next((tmp_path / "saved").rglob("context.safetensors")).unlink()
    with pytest.raises(ContextNotFittedError, match="copy the whole folder"):
        load(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"no modules\.json"):
        load(tmp_path / "nothing")
    with pytest.raises(ContextMismatchError, match="was made by model"):
        bind(model[0].encoder.context)  # the bundled model


@pytest.mark.parametrize("family", ["bert", "nomic_bert", "modernbert"])
def test_moments_become_modules_of_sentence_transformers(tmp_path, family):
    checkpoint = tiny_checkpoint(tmp_path / "late", family, context_attention="late", prompts=PROMPTS)
    encoder = fitted(checkpoint)
    assert_same(save(tmp_path / "saved", encoder.context, checkpoint), encoder)
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert {module["type"].partition(".")[0] for module in modules} == {"sentence_transformers"}
    assert_same(SentenceTransformer(str(tmp_path / "saved"), device="cpu"), encoder)


def test_moments_are_computed_where_the_model_is(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())  # ``meta`` has none
    encoder = fitted(tiny_checkpoint(tmp_path / "late", context_attention="late"))
    parts = {name: getattr(encoder, name) for name in ("context", "config", "tokenizer", "open_model")}
    encoder.open_model().second_stage.moment_head.to("meta")  # stands for an accelerator: refuses tensors of the CPU
    assert own_modules(SimpleNamespace(**parts))[3].linear.weight.is_meta


def test_vectors_go_where_the_module_was_moved(model):
    features = model[0].preprocess(QUERIES)
    assert model[0](features)["sentence_embedding"].device.type == "cpu"
    assert model.to("meta")[0](features)["sentence_embedding"].is_meta


def test_what_sentence_transformers_cannot_express_is_saved_with_our_module(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "late", context_attention="late", term_statistics=True, prompts=PROMPTS)
    encoder = fitted(checkpoint)
    save(tmp_path / "saved", encoder.context, checkpoint)
    assert_same(load(tmp_path / "saved"), encoder)
