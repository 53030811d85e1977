"""Models that read queries with another encoder than documents: vectors, folders, exports, and what is refused."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CheckpointError, ConfigError
from cde_train.training.config import StartConfig
from cde_train.training.start import open_start
from tests.plain_models import PROMPTS, TEXTS, save_model
from tests.tiny import documents, tiny_tokenizer


def save_routed(folder, kind):
    """Write a routed model as sentence-transformers does, and return it as it reads it."""
    torch.manual_seed(3)
    heavy = save_model(folder / "heavy", "bert", pooling="cls", normalize=False)
    if kind == "static queries":
        light = [
            StaticEmbedding(tiny_tokenizer(), embedding_weights=torch.randn(tiny_tokenizer().get_vocab_size(), 32))
        ]
        modules = [Router.for_query_document(light, list(heavy.children())), Normalize()]
    elif kind == "two tokenizers":
        light = list(save_model(folder / "light", "xlm-roberta", "unigram", normalize=False).children())
        modules = [Router.for_query_document(light, list(heavy.children())), Normalize()]
    else:  # one encoder, and layers that differ
        routes = {"query": [Dense(32, 16)], "document": [Dense(32, 16, bias=False)]}
        modules = [*heavy.children(), Router(routes), Normalize()]
    if kind == "mapped routes":
        routes = {"a": list(heavy.children()), "b": [*heavy.children(), Dense(32, 32)]}
        mappings = {("query", "text"): "b", ("document", None): "a"}
        modules = [Router(routes, route_mappings=mappings), Normalize()]
    made = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    made.save_pretrained(str(folder / "routed"))
    return SentenceTransformer(str(folder / "routed"), device="cpu")


def opened(folder, **said):
    encoder = ContextualEncoder.from_pretrained(folder, device="cpu", **said)
    encoder.set_context(encoder.null_context())
    return encoder


def assert_same_vectors(encoder, theirs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one text is longer than the models read, on purpose
        for ours, other in (("encode_queries", "encode_query"), ("encode_documents", "encode_document")):
            expected = getattr(theirs, other)(TEXTS, normalize_embeddings=True)
            assert np.abs(getattr(encoder, ours)(TEXTS, parts="dense") - expected).max() < 1e-5


KINDS = ["static queries", "two tokenizers", "layers", "mapped routes"]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_sentence_transformers(tmp_path, kind):
    theirs = save_routed(tmp_path, kind)
    encoder = opened(tmp_path / "routed")
    assert_same_vectors(encoder, theirs)
    queries, texts = (
        encoder.encode_queries(TEXTS[:2], parts="dense"),
        encoder.encode_documents(TEXTS[:2], parts="dense"),
    )
    assert np.abs(queries - texts).max() > 0.01  # the routes do differ
    written = opened(encoder.save_pretrained(tmp_path / "written"))
    assert written.identity.sha256 == encoder.identity.sha256
    assert_same_vectors(written, theirs)
    half = opened(encoder.save_pretrained(tmp_path / "half", dtype=torch.float16))
    assert half.identity.sha256 != encoder.identity.sha256


def test_asym_as_old_releases_saved_it(tmp_path):
    theirs = save_routed(tmp_path, "static queries")
    folder = tmp_path / "routed"
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["type"] = "sentence_transformers.models.Asym"
    (folder / "modules.json").write_text(json.dumps(listed))
    place = folder / listed[0]["path"]
    (place / "router_config.json").rename(place / "config.json")
    assert_same_vectors(opened(folder), theirs)


def test_a_context_is_of_documents(tmp_path):
    save_routed(tmp_path, "two tokenizers")
    encoder = ContextualEncoder.from_pretrained(tmp_path / "routed", device="cpu")
    encoder.fit_context(documents(20))
    fork = encoder.fork()
    fork.set_context(encoder.context)
    assert np.array_equal(fork.encode_queries(["baron"]), encoder.encode_queries(["baron"]))
    null = opened(tmp_path / "routed")
    assert np.abs(encoder.context.vectors - null.encode_documents(encoder.context.texts, parts="dense")).max() < 1e-6


@pytest.mark.usefixtures("exports")
def test_exports_agree(tmp_path):
    pytest.importorskip("onnxruntime")
    save_routed(tmp_path, "static queries")
    encoder = opened(tmp_path / "routed")
    exported = opened(tmp_path / "routed", backend="onnx")
    assert exported.identity.sha256 == encoder.identity.sha256
    for method in ("encode_queries", "encode_documents"):
        assert np.abs(getattr(exported, method)(TEXTS[:3]) - getattr(encoder, method)(TEXTS[:3])).max() < 1e-5


def test_what_does_not_belong_together_is_refused(tmp_path):
    save_routed(tmp_path, "two tokenizers")
    written = opened(tmp_path / "routed").save_pretrained(tmp_path / "written")
    save_model(tmp_path / "other", "xlm-roberta", "unigram")
    other = ContextualEncoder.from_pretrained(tmp_path / "other/model").save_pretrained(tmp_path / "alone")
    shutil.rmtree(written / "queries")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        ContextualEncoder.from_pretrained(written)
    shutil.copytree(other, written / "queries")
    with pytest.raises(CheckpointError, match=r"holds another encoder of queries than .*restore the folder as a whole"):
        ContextualEncoder.from_pretrained(written)


def test_routes_that_cannot_be_taken_are_refused(tmp_path):
    save_routed(tmp_path, "layers")
    (place,) = (tmp_path / "routed").glob("*_Router")
    said = json.loads((place / "router_config.json").read_text())
    for name, message in (
        ("question", "has the routes question, document and none for a query; save"),
        ("types", "is damaged"),
    ):
        routes = {name: said["structure"]["query"], "document": said["structure"]["document"]}
        changed = said | {"structure": routes} if name == "question" else {"structure": routes}
        (place / "router_config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message):
            ContextualEncoder.from_pretrained(tmp_path / "routed")


def test_training_refuses_two_encoders(tmp_path):
    save_routed(tmp_path, "layers")
    written = opened(tmp_path / "routed").save_pretrained(tmp_path / "written")
    for folder in (tmp_path / "routed", written):
        start = StartConfig("late", context_attention="late", share_backbone=True, max_length=64)
        with pytest.raises(ConfigError, match="another encoder for queries than for documents; training knows one"):
            open_start(str(folder), start)
