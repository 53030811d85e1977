"""Starting a two-stage model from a plain encoder."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from cde_retriever import CheckpointError, ContextualEncoder
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.errors import ConfigError
from cde_retriever.model.evidence import Evidence
from cde_train.training.config import StartConfig
from cde_train.training.start import start_from
from tests.plain_models import save_model
from tests.tiny import FAMILIES, documents, plain_encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_start_is_two_stages_of_the_plain_encoder(tmp_path, family: str) -> None:
    encoder = start_from(plain_encoder(tmp_path / "base", family), StartConfig("x", max_length=48))
    plain = AutoModel.from_pretrained(tmp_path / "base").eval()
    texts, rows = documents(5), []
    with torch.no_grad():
        for ids in encoder.tokenize(texts, "document").ids:
            pooled = plain(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
            rows.append((pooled / pooled.norm()).numpy())
    np.testing.assert_allclose(encoder.encode_first_stage(texts), np.stack(rows), atol=1e-5)
    encoder.open_model().second_stage.gate.data.fill_(-torch.inf)
    encoder.fit_context(documents(20))
    np.testing.assert_allclose(encoder.encode_documents(texts), np.stack(rows), atol=1e-5)


@pytest.mark.parametrize("layout", ["cached", "joint", "late"])
def test_a_model_that_normalises_at_its_end_starts_every_layout(tmp_path, layout: str) -> None:
    """As all-MiniLM-L6-v2 and most of its kind do; only `late` keeps the layer, since its checkpoints have it."""
    theirs = save_model(tmp_path, normalize=True)
    encoder = start_from(tmp_path / "model", StartConfig("x", context_attention=layout, max_length=64))
    assert len(encoder.config.projection) == (1 if layout == "late" else 0)
    texts = documents(3)
    np.testing.assert_allclose(encoder.encode_first_stage(texts), theirs.encode(texts), atol=1e-5)


def test_a_head_is_put_around_the_encoder_as_loading_it_by_name_does(tmp_path) -> None:
    save_model(tmp_path, normalize=True)
    start = StartConfig("mine", context_attention="head", context_size=7, max_length=32)
    made = start_from(tmp_path / "model", start)
    theirs = ContextualEncoder.from_pretrained(tmp_path / "model", max_length=32, device="cpu")
    assert (made.config.name, made.config.context_size, made.config.corpus_head) == (
        "mine",
        7,
        HeadSettings().to_dict(),
    )
    texts = documents(30)
    for encoder in (made, theirs):
        encoder.fit_context(texts, context_size=7)
    for parts in ("one", "dense"):
        one, other = (encoder.encode_documents(texts, parts=parts) for encoder in (made, theirs))
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert (made.encode_queries(texts[:3], parts="sparse") != theirs.encode_queries(texts[:3], parts="sparse")).nnz == 0
    with pytest.raises(ConfigError, match="prompt_tokens"):
        StartConfig("mine", context_attention="head", prompt_tokens=3)


@pytest.mark.parametrize("layout", ["cached", "late", "head"])
def test_no_start_drops_out_while_it_is_trained(tmp_path, layout: str) -> None:
    """Gradient caching runs a text twice, and both passes have to agree; this encoder says 0.1 of itself."""
    encoder = start_from(plain_encoder(tmp_path / "base"), StartConfig("x", context_attention=layout, max_length=32))
    assert encoder.config.second_stage["hidden_dropout_prob"] == 0.1
    model = encoder.open_model().train()
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates
    assert not any(rates)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_named_as_in_a_masked_language_model_are_read(tmp_path, family: str) -> None:
    """The ``bert.`` prefix, under which `transformers` alone would start NomicBERT from random numbers."""
    folder = plain_encoder(tmp_path / "base", family)
    expected = start_from(folder, StartConfig("x")).encode_first_stage(documents(3))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {f"bert.{name}": value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    np.testing.assert_array_equal(start_from(folder, StartConfig("x")).encode_first_stage(documents(3)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_weights_are_an_error_not_random_numbers(tmp_path, family: str) -> None:
    folder = plain_encoder(tmp_path / "base", family)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "embeddings" in name)
    weights["renamed"] = weights.pop(lost)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks 1 weights of its {family} encoder, such as embeddings"):
        start_from(folder, StartConfig("x"))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_stage_ever_runs_flash_attention(tmp_path, family: str) -> None:
    """With repeated position ids it would take a batch of one for packed sequences and cut the context off."""
    for layout, second in (("cached", "cde_context"), ("joint", "sdpa")):
        encoder = start_from(plain_encoder(tmp_path / layout, family), StartConfig("x", context_attention=layout))
        model = encoder.open_model()
        assert model.first_stage.backbone.config._attn_implementation == "sdpa"
        assert model.second_stage.backbone.config._attn_implementation == second


@pytest.mark.parametrize("family", FAMILIES)
def test_a_context_document_enters_without_the_offset_of_position_zero(tmp_path, family: str) -> None:
    """What the first layer normalises is the document's vector itself."""
    encoder = start_from(plain_encoder(tmp_path / "base", family), StartConfig("x"))
    second, seen = encoder.open_model().second_stage, []
    embeddings = second.backbone.embeddings
    norm = embeddings.norm if family == "modernbert" else embeddings.LayerNorm
    handle = norm.register_forward_hook(lambda *args: seen.append(args[1][0]))
    vectors = torch.randn(3, 32)
    with torch.no_grad():
        second.prepare(Evidence(len(vectors), vectors))
    handle.remove()
    torch.testing.assert_close(seen[0][0], vectors, atol=1e-5, rtol=0)
