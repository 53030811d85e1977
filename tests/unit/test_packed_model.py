"""A packed model: the same vectors, no second copy of anything else, and never those of a model that has changed."""

import numpy as np
import pytest
import torch
from torch import nn

from cde_retriever.backends.packed import PackedBert, PackedBertLayer, PackedLinear, can_pack, pack
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.model.backbone import build_backbone
from tests.tiny import documents, tiny_backbone, tiny_encoder

needs_packing = pytest.mark.skipif(not can_pack(nn.Linear(2, 2)), reason="this build of PyTorch cannot pack")


def layers(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in model.modules())


@pytest.fixture
def loaded(tmp_path):
    def load(**settings):
        start = tiny_encoder(**settings)
        return start, ContextualEncoder.from_pretrained(start.save_pretrained(tmp_path / "model"), device="cpu")

    return load


@needs_packing
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("padded", [False, True])
def test_an_encoder_of_berts_kind_gives_what_it_gave(family, activation, padded):
    torch.manual_seed(0)
    model = build_backbone({**tiny_backbone("bert", 50), "model_type": family, "hidden_act": activation}).eval()
    packed = pack(model)
    assert type(packed) is PackedBert
    assert layers(packed, nn.Linear) == 0
    ids = torch.randint(4, 50, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    if padded:
        mask[0, 4:] = mask[2, 8:] = 0
    with torch.no_grad():
        for inputs in ({"input_ids": ids}, {"inputs_embeds": torch.randn(3, 9, model.config.hidden_size)}):
            expected = model(**inputs, attention_mask=mask).last_hidden_state
            found = packed(**inputs, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(found[mask > 0], expected[mask > 0], atol=3e-6, rtol=0)


@needs_packing
def test_a_decoder_is_none_of_berts_kind():
    model = build_backbone(tiny_backbone("bert", 50))
    model.config.is_decoder = True
    assert type(pack(model)) is type(model)
    assert layers(pack(model), PackedLinear)


@needs_packing
def test_a_layout_that_remembered_its_layers_remembers_the_packed_ones():
    encoder = tiny_encoder(context_attention="cached")
    encoder.fit_context(documents(20))
    stage = pack(encoder.open_model()).second_stage
    assert stage._attention_layers
    assert all(type(layer) is PackedBertLayer for layer in stage._attention_layers)


@needs_packing
@pytest.mark.parametrize("family", ["bert", "nomic_bert", "modernbert"])
@pytest.mark.parametrize("layout", ["cached", "joint", "late"])
def test_a_loaded_encoder_runs_packed_and_gives_the_same_vectors(loaded, family, layout):
    start, encoder = loaded(family=family, context_attention=layout)
    encoder.set_context(start.fit_context(documents(20)))
    texts = ["a", *documents(9)]
    np.testing.assert_allclose(encoder.encode_documents(texts), start.encode_documents(texts), atol=2e-6, rtol=0)
    np.testing.assert_allclose(encoder.encode_first_stage(texts), start.encode_first_stage(texts), atol=2e-6, rtol=0)
    running = encoder.backend.running
    assert layers(running, PackedLinear) > 4
    assert layers(running, nn.Linear) == layers(running, nn.Dropout) == 0
    assert layers(encoder.backend._model, nn.Linear), "the model itself stays as it is"
    shared = dict(encoder.open_model().named_parameters())
    kept = dict(running.named_parameters())
    assert kept
    assert all(parameter is shared[name] for name, parameter in kept.items())


@needs_packing
def test_a_model_that_was_asked_for_runs_as_it_is(loaded):
    _, encoder = loaded()
    encoder.set_context(encoder.null_context())
    before = encoder.encode_queries(["a b c"])
    assert layers(encoder.backend.running, PackedLinear)
    with torch.no_grad():
        for module in encoder.open_model().modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(0.5)
    assert encoder.backend.running is encoder.open_model()
    encoder.set_context(encoder.null_context())
    assert np.abs(encoder.encode_queries(["a b c"]) - before).max() > 1e-3


def test_what_is_written_is_the_model_and_a_model_from_outside_is_not_packed(loaded, tmp_path):
    start, encoder = loaded()
    assert layers(start.backend.running, PackedLinear) == 0
    encoder.set_context(encoder.null_context())
    encoder.encode_queries(["a"])
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "again"), device="cpu")
    assert again.identity.sha256 == encoder.identity.sha256 == start.identity.sha256
