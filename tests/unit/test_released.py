"""The authors' own checkpoints: golden numbers of their code, their names and shapes, and what they refuse."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from cde_retriever.checkpoint import released
from cde_retriever.checkpoint.released import BACKBONES, MODERN, NOMIC, VARIANTS, build_variant, configure, convert
from cde_retriever.cli.main import main
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.variants import read_pairs
from cde_retriever.errors import CheckpointError, ConfigError, ContextError, CorpusError
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.two_stage import TwoStageModel
from tests.tiny import documents, tiny_tokenizer

GOLDEN = Path(__file__).parents[3] / "shared" / "released"
if not GOLDEN.is_dir():
    GOLDEN = Path(__file__).parents[4] / "shared" / "released"
CASES = {
    "v1_training_layout": (NOMIC, "trained"),
    "v2_hub_code": (MODERN, "published"),
    "v2_github_code": (MODERN, "github"),
    "v2_github_code_authors_branch": (MODERN, "trained"),
}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 128, "pad_token_id": 0}
TINY = {
    NOMIC: {**BACKBONES[NOMIC], **SIZES, "num_hidden_layers": 2, "intermediate_size": 64},
    MODERN: {
        **BACKBONES[MODERN], **SIZES, "num_hidden_layers": 4, "intermediate_size": 48, "local_attention": 8,
        "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
    },
}  # fmt: skip


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not beside this clone")
@pytest.mark.parametrize("case", CASES)
def test_golden_numbers_of_the_authors_code(case, monkeypatch):
    file = GOLDEN / f"{case}.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["about"])
    embedder, variant = CASES[case]
    theirs, sizes = about["backbone"], dict(TINY[embedder])
    if embedder == NOMIC:
        sizes |= {"num_hidden_layers": theirs["n_layer"], "intermediate_size": theirs["n_inner"], "vocab_size": 64}
    else:
        sizes |= theirs
    monkeypatch.setitem(released.BACKBONES, embedder, sizes)
    source = {name: tensor for name, tensor in tensors.items() if not name.startswith("expected.")}
    said = {"embedder": embedder, "transductive_corpus_size": about["J"]}
    config = configure(said, VARIANTS[embedder][variant], case, null=released.NULL in source, colon=about["colon_id"])
    model = TwoStageModel(config)
    native = convert(source, config)
    assert native.keys() == model.stored_state().keys()
    model.load_state_dict(native)
    with torch.no_grad():
        context_ids, text_ids = tensors["expected.context_ids"], tensors["expected.text_ids"]
        context = model.first_stage(context_ids, (context_ids != about["pad_id"]).long())
        expected = tensors["expected.context_vectors"]
        assert (context - expected).abs().max() < 1e-5 * expected.abs().max()
        mask = (text_ids != about["pad_id"]).long()
        second = model.second_stage
        ours = second(text_ids, mask, second.prepare(Evidence(len(context), expected)))
        assert (ours - normalize(tensors["expected.text_vectors"], dim=-1)).abs().max() < 1e-5
        if "expected.text_vectors_null_context" in tensors:
            ours = second(text_ids, mask, second.prepare(Evidence(0)))
            assert (ours - normalize(tensors["expected.text_vectors_null_context"], dim=-1)).abs().max() < 1e-5


def source_of(embedder, *, null=True, seed=0):
    """Return random tensors under released names, made from the native shapes by hand."""
    generator = torch.Generator().manual_seed(seed)
    sizes = released.BACKBONES[embedder]
    width, inner, vocabulary = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    shapes = {}
    for stage, body in (("first_stage_model", "embedder"), ("second_stage_model", "backbone")):
        start = f"{stage}.{body}."
        if embedder == NOMIC:
            shapes |= {start + "embeddings.word_embeddings.weight": (vocabulary, width)}
            shapes |= {start + "embeddings.token_type_embeddings.weight": (2, width)}
            shapes |= {start + f"emb_ln.{part}": (width,) for part in ("weight", "bias")}
        else:
            shapes |= {start + "embeddings.tok_embeddings.weight": (vocabulary, width)}
            shapes |= {start + name: (width,) for name in ("embeddings.norm.weight", "final_norm.weight")}
        for layer in range(sizes["num_hidden_layers"]):
            shapes |= layer_shapes(embedder, start, layer, width, inner)
    for name in ("first_stage_model.mlp", "second_stage_model.output_projection"):
        shapes |= {f"{name}.{i}.weight": (width, width) for i in (0, 2)} | {
            f"{name}.{i}.bias": (width,) for i in (0, 2)
        }
    prompt = "second_stage_model.prompt_projection"
    shapes |= {f"{prompt}.0.weight": (width, width), f"{prompt}.0.bias": (width,)}
    shapes |= {f"{prompt}.2.weight": (8 * width, width), f"{prompt}.2.bias": (8 * width,)}
    if null and embedder == NOMIC:
        shapes |= {released.NULL: (width,)}
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 1.0) + (len(shape) < 2)
        for name, shape in shapes.items()
    }


def layer_shapes(embedder, start, layer, width, inner):
    if embedder == NOMIC:
        at = f"{start}encoder.layers.{layer}."
        norms = {f"{at}{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        up = {f"{at}mlp.{name}.weight": (inner, width) for name in ("fc11", "fc12")}
        attention = {f"{at}attn.Wqkv.weight": (3 * width, width), f"{at}attn.out_proj.weight": (width, width)}
        return {**norms, **up, **attention, f"{at}mlp.fc2.weight": (width, inner)}
    at = f"{start}layers.{layer}."
    norms = {f"{at}mlp_norm.weight": (width,)} | ({f"{at}attn_norm.weight": (width,)} if layer else {})
    attention = {f"{at}attn.Wqkv.weight": (3 * width, width), f"{at}attn.Wo.weight": (width, width)}
    return {**norms, **attention, f"{at}mlp.Wi.weight": (2 * inner, width), f"{at}mlp.Wo.weight": (width, inner)}


@pytest.mark.parametrize(
    ("embedder", "null", "tensors", "numbers"),
    [(NOMIC, False, 236, 281_140_992), (NOMIC, True, 237, 281_141_760), (MODERN, False, 280, 305_706_240)],
)
def test_names_and_shapes_at_full_size(embedder, null, tensors, numbers, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.empty(shape, device="meta"))
    source = source_of(embedder, null=null)
    assert len(source) == tensors
    assert sum(math.prod(tensor.shape) for tensor in source.values()) == numbers
    monkeypatch.undo()
    for variant in VARIANTS[embedder].values():
        config = configure({"embedder": embedder}, variant, "x", null=null, colon=7)
        with torch.device("meta"):
            stored = TwoStageModel(config).stored_state()
            native = convert(source, config)
        assert {key: t.shape for key, t in native.items()} == {key: t.shape for key, t in stored.items()}


@pytest.fixture(params=["v1", "v2"])
def folder(tmp_path, monkeypatch, request):
    embedder = NOMIC if request.param == "v1" else MODERN
    for name, sizes in TINY.items():
        monkeypatch.setitem(released.BACKBONES, name, sizes)
    folder = tmp_path / f"cde-small-{request.param}"
    folder.mkdir()
    save_file(source_of(embedder), folder / "model.safetensors")
    said = {"architectures": ["ContextualDocumentEmbeddingTransformer"], "embedder": embedder, "max_seq_length": 48}
    (folder / "config.json").write_text(json.dumps({**said, "transductive_corpus_size": 12}))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "model.py").write_text("raise SystemExit('this code must never run')")
    return folder


def opened(folder, variant="trained"):
    return ContextualEncoder.from_pretrained(folder, device="cpu", variant=variant)


def test_a_missing_tokenizer_is_that_of_the_backbone(folder, tmp_path, monkeypatch):
    before = opened(folder)
    asked = []

    def download(name, file):
        asked.append(f"{name}/{file}")
        return tmp_path / "elsewhere.json"

    (folder / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; put that of \S+/\S+ there \("):
        opened(folder)
    monkeypatch.setattr(released, "download_file", download)
    with pytest.warns(UserWarning, match=r"has no tokenizer\.json; that of .*, its backbone's, is used"):
        found = opened(folder)
    assert asked == [f"{'google-bert/bert-base-uncased' if folder.name.endswith('v1') else MODERN}/tokenizer.json"]
    assert found.tokenizer.to_str() == before.tokenizer.to_str()
    assert found.identity.sha256 != before.identity.sha256


TEXTS = ["baron kolak", "misim: ludor zevex ratul", "tinol"]


def test_every_weight_matters(folder):
    def vectors():
        encoder = opened(folder)
        encoder.list_context(documents(12))
        found = [encoder.encode_documents(TEXTS)]
        if encoder.config.null_context != "none":
            encoder.set_context(encoder.null_context())
            found.append(encoder.encode_documents(TEXTS))
        return np.concatenate(found)

    weights, before = load_file(folder / "model.safetensors"), vectors()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        noise = torch.randn(tensor.shape, generator=generator) * tensor.std()
        save_file({**weights, name: tensor + noise}, folder / "model.safetensors")
        assert np.abs(vectors() - before).max() > 1e-4, name


def test_variants_differ_in_vectors_and_identity(folder):
    names = VARIANTS[NOMIC if folder.name.endswith("v1") else MODERN]
    found, identities = [], set()
    for variant in names:
        encoder = opened(folder, variant)
        encoder.list_context(documents(12))
        found.append(encoder.encode_queries(TEXTS))
        identities.add(encoder.identity.sha256)
    assert len(identities) == len(names)
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one - other).max() > 0.01


def test_order_is_seen_by_v2_alone(folder):
    encoder, listed = opened(folder), documents(12)
    first = encoder.list_context(listed)
    one = encoder.encode_documents(TEXTS)
    second = encoder.list_context(listed[::-1])
    difference = np.abs(encoder.encode_documents(TEXTS) - one).max()
    if folder.name.endswith("v1"):
        assert first.fingerprint == second.fingerprint
        assert difference < 1e-5
    else:
        assert first.fingerprint != second.fingerprint
        assert difference > 1e-3


def test_batch_mates_change_nothing(folder):
    encoder = opened(folder)
    encoder.list_context(documents(12))
    together = encoder.encode_documents([*TEXTS, "baron " * 30])[: len(TEXTS)]
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5


def test_a_context_of_vectors_is_that_of_its_texts(folder):
    encoder = opened(folder)
    encoder.list_context(documents(12))
    expected = encoder.encode_queries(TEXTS)
    context = encoder.context_from_vectors(encoder.encode_first_stage(documents(12)))
    assert context.texts is None
    assert np.abs(encoder.encode_queries(TEXTS) - expected).max() < 1e-5
    with pytest.raises(ContextError, match=r"expected finite dataset embeddings, \(J, 32\), received shape \(12, 8\)"):
        encoder.context_from_vectors(np.ones((12, 8), np.float32))


def test_fewer_documents_are_repeated_and_more_are_refused(folder):
    encoder = opened(folder)
    assert encoder.list_context(documents(12)).oversampled_to is None
    five = encoder.list_context(documents(5))
    assert five.oversampled_to == 12
    ours = encoder.encode_queries(TEXTS)
    encoder.list_context([documents(5)[i % 5] for i in range(12)])
    assert np.abs(encoder.encode_queries(TEXTS) - ours).max() < 1e-5
    with pytest.raises(ContextError, match="reads 1 to 12 context documents, received 13"):
        encoder.list_context(documents(13))
    with pytest.raises(ConfigError, match=r"context_size is 13, but .* reads 12 context documents, no more"):
        encoder.fit_context(documents(40), context_size=13)


def test_no_context(folder):
    encoder = opened(folder)
    if folder.name.endswith("v1"):
        encoder.set_context(encoder.null_context())
        assert np.isfinite(encoder.encode_queries(TEXTS)).all()
    else:
        with pytest.raises(ContextError, match="has no null context; fit it a context of any texts"):
            encoder.null_context()


def test_a_native_checkpoint_keeps_vectors_and_identity(folder, tmp_path):
    encoder = opened(folder)
    context = encoder.list_context(documents(12))
    saved = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "native"), device="cpu")
    assert saved.identity.sha256 == encoder.identity.sha256
    saved.set_context(context)
    assert np.array_equal(saved.encode_queries(TEXTS), encoder.encode_queries(TEXTS))
    with pytest.raises(ConfigError, match=r"uses first_stage_head, .* which exports do not have; use backend='torch'"):
        ContextualEncoder.from_pretrained(tmp_path / "native", backend="onnx")


def test_the_variant_is_said_loudly(folder):
    if folder.name.endswith("v2"):
        with pytest.warns(UserWarning, match=r"as its published code does .*'trained', 'github' are the others"):
            opened(folder, None)
    with pytest.raises(ConfigError, match=r"variant is 'best', cde-small-v. has 'trained'|'published'"):
        opened(folder, "best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedder": "bert-base-uncased"}, "says embedder 'bert-base-uncased'; understood are nomic-ai"),
        ({"architecture": "biencoder"}, "says architecture 'biencoder'; understood is 'transductive' alone"),
        ({"contextual_tokens_per_document": 2}, "says transductive_tokens_per_document 2; understood is 1"),
        ({"limit_layers": 6}, "says limit_layers 6; understood is None alone"),
    ],
)
def test_other_networks_are_refused(folder, change, message):
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(CheckpointError, match=message):
        opened(folder)


@pytest.mark.parametrize("name", ["first_stage_model.mlp.0.bias", "second_stage_model.prompt_projection.2.bias"])
def test_missing_and_unknown_tensors_are_named(folder, name):
    weights = load_file(folder / "model.safetensors")
    unread = {"second_stage_model.input_ln.weight": torch.ones(32)}
    save_file({**weights, **unread}, folder / "model.safetensors")
    opened(folder)
    save_file({**weights, "second_stage_model.more": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"second_stage_model.more"):
        opened(folder)
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"first_stage.mlp.0.bias|prompt_projection.2.bias"):
        opened(folder)


def test_verify_finds_the_network_that_the_judgements_come_from(folder, tmp_path, capsys):
    first, second = documents(24, seed=3, words=6), documents(24, seed=4, words=6)
    embedder = NOMIC if folder.name.endswith("v1") else MODERN
    model, tokenizer = build_variant(
        folder, VARIANTS[embedder]["trained"], "x", {"query": "classification: ", "document": "classification: "}
    )
    encoder = ContextualEncoder.from_model(model, tokenizer)
    encoder.list_context([*first, *second][:12])
    scores = (encoder.encode_documents(first) * encoder.encode_documents(second)).sum(axis=1)
    rows = [{"sentence1": a, "sentence2": b, "score": float(c)} for a, b, c in zip(first, second, scores, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["verify", str(folder), "--pairs", str(tmp_path / "pairs.jsonl")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["scores"]) == (2 if embedder == NOMIC else 12)
    expected = VARIANTS[embedder]["trained"]
    assert said["best"]["spearman"] == pytest.approx(100)
    assert (said["best"]["norms"], said["best"]["residual"]) == (expected.norms, expected.residual)
    assert said["best"]["whole_text"] == expected.whole_text
    assert sum(score["spearman"] > 99.99 for score in said["scores"]) == 1


@pytest.mark.parametrize("rows", ['{"sentence1": "a", "score": 1}', '{"sentence1": "a", "sentence2": "b", "score": 1}'])
def test_pairs_that_are_none_are_refused(folder, tmp_path, rows):
    (tmp_path / "pairs.jsonl").write_text(rows)
    with pytest.raises(CorpusError, match=r"row 1 of .* is no judged pair|holds 1 pairs of one score"):
        read_pairs(tmp_path / "pairs.jsonl")
