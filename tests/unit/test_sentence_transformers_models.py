"""Any encoder without its head gives the vectors that sentence-transformers gives."""

import json
import re
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm, StaticEmbedding

import cde_retriever.checkpoint.reading as reading_module
from cde_retriever.backends.export import export_onnx
from cde_retriever.backends.loading import identify
from cde_retriever.backends.pytorch import TorchBackend
from cde_retriever.checkpoint.opening import open_model
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.cli.main import main
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import POOLINGS
from cde_train.training.config import StartConfig
from cde_train.training.start import open_start, start_from
from tests.plain_models import FAMILIES, PROMPTS, TEXTS, save_model, save_transformer
from tests.tiny import documents, headed_encoder, tiny_checkpoint, tiny_tokenizer

HEADLESS = Reading(head=False)


def read(folder, reading=HEADLESS):
    read = open_model(folder, reading, name="tiny")
    encoder = ContextualEncoder(
        TorchBackend(read.model, source_sha256=read.source_sha256, sole_owner=True),
        read.tokenizer,
        identify(read.model.config, read.sha256, None),
    )
    encoder.set_context(encoder.null_context())
    return encoder


def assert_same_vectors(encoder, theirs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one text is longer than the models read, on purpose
        for ours, other in (("encode_queries", "encode_query"), ("encode_documents", "encode_document")):
            expected = getattr(theirs, other)(TEXTS, normalize_embeddings=True)
            assert np.abs(getattr(encoder, ours)(TEXTS) - expected).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path, family):
    pooling = "lasttoken" if family in ("qwen3", "gemma3_text") else "mean"
    theirs = save_model(tmp_path, family, pooling=pooling, prompts=PROMPTS)
    encoder = read(tmp_path / "model")
    assert encoder.config.prompts == PROMPTS
    assert_same_vectors(encoder, theirs)


@pytest.mark.parametrize("tokenizer", ["bpe", "unigram"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_every_tokenizer(tmp_path, family, tokenizer):
    theirs = save_model(tmp_path, family, tokenizer, prompts=PROMPTS)
    assert_same_vectors(read(tmp_path / "model"), theirs)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean")])
def test_every_pooling(tmp_path, pooling, include_prompt):
    theirs = save_model(tmp_path, pooling=pooling, include_prompt=include_prompt, prompts=PROMPTS)
    assert_same_vectors(read(tmp_path / "model"), theirs)


def test_layers_after_pooling(tmp_path):
    torch.manual_seed(1)
    norm = LayerNorm(24)
    norm.norm.weight.data.normal_()
    layers = [
        Dense(32, 48, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
        Dense(48, 24, activation_function=torch.nn.GELU()),
        norm,
        Dense(24, 24, use_residual=True),
    ]
    theirs = save_model(tmp_path, layers=layers, normalize=False)
    encoder = read(tmp_path / "model")
    assert encoder.dimension == 24
    assert_same_vectors(encoder, theirs)


def test_a_dense_layer_as_old_releases_saved_it(tmp_path):
    theirs = save_model(tmp_path, layers=[Dense(32, 16)])
    listed = json.loads((tmp_path / "model/modules.json").read_text())
    old = {"Transformer": "Transformer", "Pooling": "Pooling", "Dense": "Dense", "Normalize": "Normalize"}
    for module in listed:
        module["type"] = "sentence_transformers.models." + old[module["type"].rpartition(".")[2]]
    (tmp_path / "model/modules.json").write_text(json.dumps(listed))
    pooling = tmp_path / "model" / listed[1]["path"] / "config.json"
    pooling.write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}))
    assert_same_vectors(read(tmp_path / "model"), theirs)


def test_maximum_length_and_lower_case_of_old_configurations(tmp_path):
    save_model(tmp_path, tokenizer="unigram")
    (tmp_path / "model/sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": True}))
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    encoder = read(tmp_path / "model")
    assert encoder.config.max_length == 12
    assert_same_vectors(encoder, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_computed_in_whole(tmp_path, dtype):
    save_model(tmp_path)
    file = tmp_path / "model/model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", model_kwargs={"dtype": torch.float32})
    assert_same_vectors(read(tmp_path / "model"), theirs)


def test_weights_in_several_files(tmp_path):
    theirs = save_model(tmp_path)
    theirs[0].model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    (tmp_path / "model/model.safetensors").unlink(missing_ok=True)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    assert_same_vectors(read(tmp_path / "model"), theirs)


@pytest.mark.parametrize("layers", [(), [Dense(32, 16)]])
def test_inner_products_rank_as_they_do(tmp_path, layers):
    save_model(tmp_path, layers=layers, normalize=False, prompts=PROMPTS)
    said = tmp_path / "model/config_sentence_transformers.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"similarity_fn_name": "dot"}))
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    encoder = read(tmp_path / "model", Reading())
    longest = encoder.config.projection[-1]["longest"]
    texts = documents(40)
    queries, vectors = theirs.encode_query(TEXTS[:3]), theirs.encode_document(texts)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths.max() / lengths.min() > 1.02
    assert lengths.max() <= longest <= 4 * lengths.max()
    ours = encoder.encode_queries(TEXTS[:3], parts="dense"), encoder.encode_documents(texts, parts="dense")
    assert np.abs(ours[0] @ ours[1].T - queries @ vectors.T / longest).max() < 1e-5
    assert np.abs(np.linalg.norm(ours[1], axis=1) - 1).max() < 1e-6
    written = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "written"))
    written.set_context(encoder.context)
    assert np.array_equal(written.encode_queries(TEXTS[:3]), encoder.encode_queries(TEXTS[:3]))
    with pytest.raises(ConfigError, match="written compares vectors by inner product, and training makes cosines"):
        open_start(str(tmp_path / "written"), StartConfig("head", context_attention="head"))
    with pytest.raises(ConfigError, match="compares vectors by inner product, and training makes cosines"):
        start_from(
            tmp_path / "model", StartConfig("late", context_attention="late", share_backbone=True, max_length=64)
        )


def test_static_embeddings(tmp_path):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    static = StaticEmbedding(tokenizer, embedding_weights=torch.randn(tokenizer.get_vocab_size(), 24))
    SentenceTransformer(modules=[static, Normalize()], device="cpu").save_pretrained(str(tmp_path))
    encoder, theirs = read(tmp_path), SentenceTransformer(str(tmp_path), device="cpu")
    assert_same_vectors(encoder, theirs)
    assert not encoder.encode_documents([""]).any()


def test_model2vec_with_a_mapping_and_weights(tmp_path):
    torch.manual_seed(0)
    size = tiny_tokenizer().get_vocab_size()
    tensors = {"embeddings": torch.randn(9, 24), "mapping": torch.arange(size) % 9, "weights": torch.rand(size)}
    save_file(tensors, tmp_path / "model.safetensors")
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    modules = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert_same_vectors(read(tmp_path), SentenceTransformer(str(tmp_path), device="cpu"))


def test_an_encoder_of_transformers_needs_its_pooling_said(tmp_path):
    theirs = save_model(tmp_path, pooling="cls", prompts=PROMPTS)
    encoder = read(tmp_path / "plain", Reading(pooling="cls", prompts=PROMPTS, head=False))
    assert_same_vectors(encoder, theirs)


@pytest.mark.parametrize("family", ["distilbert", "t5", "xlm-roberta"])
def test_what_is_written_is_what_was_read(tmp_path, family):
    save_model(tmp_path, family, pooling=("cls", "mean"), layers=[Dense(64, 16)], include_prompt=False, prompts=PROMPTS)
    encoder = read(tmp_path / "model", Reading())
    encoder.fit_context(documents(20))
    saved = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "saved"))
    assert saved.identity.sha256 == encoder.identity.sha256
    saved.set_context(encoder.context)
    assert np.array_equal(saved.encode_queries(TEXTS[:3]), encoder.encode_queries(TEXTS[:3]))
    again = ContextualEncoder.from_pretrained(saved.save_pretrained(tmp_path / "again"))
    assert again.identity.sha256 == encoder.identity.sha256


def test_what_was_changed_is_another_model(tmp_path):
    save_model(tmp_path)
    encoder = read(tmp_path / "model", Reading())
    before = encoder.identity.sha256
    encoder.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/model.safetensors"
    tensors = load_file(file)
    tensors["second_stage.backbone.embeddings.LayerNorm.bias"] += 1
    save_file(tensors, file)
    assert ContextualEncoder.from_pretrained(tmp_path / "saved").identity.sha256 != before
    encoder.open_model().second_stage.backbone.embeddings.LayerNorm.bias.data += 1
    changed = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "changed"))
    assert changed.identity.sha256 == encoder.identity.sha256 != before


def test_identity_is_of_files_and_of_what_is_said(tmp_path):
    save_model(tmp_path)
    folder = tmp_path / "model"
    identity = read(folder, Reading()).identity.sha256
    (folder / "README.md").write_text("another card")
    (folder / "onnx").mkdir()
    (folder / "onnx/config.json").write_text("{}")
    assert read(folder, Reading()).identity.sha256 == identity
    others = [read(folder, reading).identity.sha256 for reading in (HEADLESS, Reading(max_length=9))]
    (folder / "special_tokens_map.json").write_text("{}")
    others.append(read(folder, Reading()).identity.sha256)
    assert len({identity, *others}) == 4


def test_identity_is_of_the_numbers_of_the_head_too(tmp_path, monkeypatch):
    save_model(tmp_path)
    folder = tmp_path / "model"
    with_head, without = (read(folder, reading).identity.sha256 for reading in (Reading(), HEADLESS))
    monkeypatch.setattr(reading_module, "HeadSettings", lambda: HeadSettings(amount=0.4))
    assert read(folder, Reading()).identity.sha256 != with_head
    assert read(folder, HEADLESS).identity.sha256 == without


def test_the_head_knows_the_corpus(tmp_path):
    save_model(tmp_path, pooling="cls")
    encoder = ContextualEncoder.from_pretrained(tmp_path / "model", max_length=32)
    assert (encoder.config.name, encoder.config.max_length) == ("model", 32)
    encoder.fit_context([f"baron kolak {text}" for text in documents(30)])
    assert encoder.dimension == 32 + HeadSettings().added_width
    query = encoder.encode_queries(["baron zevexlak"], parts="sparse")
    assert max(query.data) > 3 * min(query.data)  # every document of the corpus holds one word, none the other
    assert encoder.encode_documents(["baron"], parts="dense").shape == (1, 32)


@pytest.mark.parametrize(("backend", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_exports_agree(tmp_path, backend, package, exports):
    pytest.importorskip(package)
    save_model(tmp_path, pooling="cls", layers=[Dense(32, 16)], prompts=PROMPTS)
    encoder = ContextualEncoder.from_pretrained(tmp_path / "model")
    encoder.fit_context(documents(20))
    exported = ContextualEncoder.from_pretrained(tmp_path / "model", backend=backend)
    assert exported.identity.sha256 == encoder.identity.sha256
    exported.set_context(encoder.context)
    assert np.abs(exported.encode_queries(TEXTS[:3]) - encoder.encode_queries(TEXTS[:3])).max() < 1e-5


def test_a_bare_transformer_is_read_too(tmp_path):
    folder = save_transformer(tmp_path / "x", "roberta", "bpe")
    encoder = ContextualEncoder.from_pretrained(folder, pooling="mean")
    encoder.fit_context(documents(20))
    assert encoder.encode_queries(["baron"]).shape == (1, 32 + HeadSettings().added_width)


def test_the_command_writes_what_is_opened_in_memory(tmp_path, capsys):
    save_model(tmp_path)
    assert main(["wrap", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--query-prompt", "ask: "]) == 0
    said = json.loads(capsys.readouterr().out)
    opened = ContextualEncoder.from_pretrained(tmp_path / "model", prompts={"query": "ask: "})
    assert said["sha256"] == opened.identity.sha256
    written = ContextualEncoder.from_pretrained(tmp_path / "out")
    assert written.config.prompts == {"query": "ask: ", "document": ""}
    assert written.identity == replace(opened.identity, name="model")


def test_a_vector_of_fewer_numbers_reads_its_context_and_is_written_as_it_is_opened(tmp_path, capsys):
    save_model(tmp_path)
    assert main(["wrap", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--vector-size", "24"]) == 0
    said = json.loads(capsys.readouterr().out)
    opened, whole = (ContextualEncoder.from_pretrained(tmp_path / "model", vector_size=size) for size in (24, None))
    assert said["dimension"] == opened.dimension == 24
    assert opened.head_settings == HeadSettings(
        directions=24, levelling=0.11, sketch=0, query_noise=0.05, query_neighbours=256
    )
    written = ContextualEncoder.from_pretrained(tmp_path / "out")
    assert written.identity == replace(opened.identity, name="model")
    assert len({opened.identity.sha256, whole.identity.sha256}) == 2
    texts = documents(20)
    written.set_context(opened.fit_context(texts))
    own = written.encode_documents(texts)
    np.testing.assert_allclose(opened.encode_documents(texts), own, atol=1e-5)
    opened.set_context(opened.null_context())
    assert own.shape == (20, 24)
    assert np.abs(opened.encode_documents(texts) - own).max() > 0.1


def test_a_size_that_no_short_vector_has_is_refused(tmp_path):
    save_model(tmp_path)
    with pytest.raises(ConfigError, match=r"vector_size is 417, but vectors of .* have 32 numbers; give at most 416"):
        ContextualEncoder.from_pretrained(tmp_path / "model", vector_size=417)
    with pytest.raises(ConfigError, match="vector_size must be at least 6, received 5"):
        ContextualEncoder.from_pretrained(tmp_path / "model", vector_size=5)
    with pytest.raises(ConfigError, match="vector_size is 8, which needs the head"):
        Reading(vector_size=8, head=False)
    with pytest.raises(ConfigError, match=r"one vector of .*-short has a size of its own, which its config\.json says"):
        ContextualEncoder.from_pretrained("cde-minilm-l6-short", vector_size=8)
    other = tiny_checkpoint(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"has no corpus head, .* load it with truncate_dim=8$"):
        ContextualEncoder.from_pretrained(other, vector_size=8)


@pytest.mark.parametrize("size", [24, 32, 40, 416])
def test_a_checkpoint_is_opened_with_another_size_and_written_so(tmp_path, capsys, size):
    folder = headed_encoder().save_pretrained(tmp_path / "head")
    whole, opened = (ContextualEncoder.from_pretrained(folder, vector_size=asked) for asked in (None, size))
    assert (opened.dimension, whole.dimension) == (size, 32 + 384)
    assert (opened.identity == whole.identity) == (size == 416)
    assert main(["wrap", str(folder), "-o", str(tmp_path / "out"), "--vector-size", str(size)]) == 0
    assert json.loads(capsys.readouterr().out)["dimension"] == size
    written, again = (ContextualEncoder.from_pretrained(tmp_path / "out", vector_size=asked) for asked in (None, size))
    assert written.identity == again.identity
    written.set_context(opened.fit_context(documents(20)))
    asked = ["baron kolak"]
    np.testing.assert_allclose(written.encode_queries(asked), opened.encode_queries(asked), atol=1e-5)


def test_what_a_checkpoint_says_itself_is_refused():
    with pytest.raises(ConfigError, match=r"says pooling; leave that out, or wrap the encoder .* anew$"):
        ContextualEncoder.from_pretrained(pooling="mean")


@pytest.mark.parametrize("kept", ["modules.json", "config.json"])
def test_the_command_writes_over_no_other_model(tmp_path, capsys, kept):
    save_model(tmp_path)
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "model" / kept, tmp_path / "other")
    before = (tmp_path / "other" / kept).read_bytes()
    assert main(["wrap", str(tmp_path / "model"), "-o", str(tmp_path / "other")]) == 2
    assert "holds another model, which would be lost; choose another folder" in capsys.readouterr().err
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "other").iterdir()] == [(kept, before)]


def test_what_lies_damaged_where_the_command_writes_is_not_to_be_copied_again(tmp_path, capsys):
    save_model(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{")
    assert main(["wrap", str(tmp_path / "model"), "-o", str(tmp_path / "other")]) == 1
    assert re.search("config.json is damaged .*; choose another folder, or delete this one", capsys.readouterr().err)
    assert main(["wrap", str(tmp_path / "other"), "-o", str(tmp_path / "out")]) == 1
    assert re.search("config.json is damaged .*; copy it again", capsys.readouterr().err)


def test_the_command_writes_over_no_other_checkpoint(tmp_path, capsys, exports):
    save_model(tmp_path)
    tiny_checkpoint(tmp_path / "trained")
    export_onnx(tmp_path / "trained", tmp_path / "export")
    shutil.copytree(tmp_path / "trained", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").unlink()
    for there, said in {
        "trained": r"holds tiny-bert \(\w{12}\), received model \(\w{12}\); choose another folder, or delete this one",
        "damaged": "may hold another model .*model.safetensors'.*; choose another folder, or delete this one",
        "export": "holds another model, which would be lost; choose another folder",
    }.items():
        before = {file.name: file.read_bytes() for file in (tmp_path / there).iterdir()}
        assert main(["wrap", str(tmp_path / "model"), "-o", str(tmp_path / there)]) == 2
        assert re.search(f"{there} {said}", capsys.readouterr().err)
        assert {file.name: file.read_bytes() for file in (tmp_path / there).iterdir()} == before
    wrap = ["wrap", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    assert main(wrap) == main(wrap) == main(["wrap", str(tmp_path / "out"), *wrap[2:]]) == 0
    assert main([*wrap, "--max-length", "32"]) == 2  # another model, whose vectors are others


def test_training_starts_from_the_encoder_as_it_is(tmp_path):
    theirs = save_model(tmp_path, pooling="cls", layers=[Dense(32, 16)], prompts=PROMPTS)
    start = StartConfig("late", context_attention="late", share_backbone=True, max_length=64)
    encoder = start_from(tmp_path / "model", start)
    encoder.set_context(encoder.null_context())
    assert_same_vectors(encoder, theirs)
    with pytest.raises(ConfigError, match="projection has 1 parts, which needs context_attention 'late'"):
        start_from(tmp_path / "model", StartConfig("cached", max_length=64))
