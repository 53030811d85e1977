"""Packed weights: the same vectors, no second copy of anything else, and never those of a model that has changed."""

import numpy as np
import pytest
import torch
from torch import nn

from cde_retriever.backbone import build_backbone
from cde_retriever.encoder import ContextualEncoder
from cde_retriever.packed_linear import PackedLinear, can_pack, fused_activations
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
@pytest.mark.parametrize("shape", [(3, 5), (1, 7, 5), (0, 5), (2, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_what_it_gave(shape, bias):
    linear = nn.Linear(5, 6, bias=bias)
    inputs = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs), atol=1e-6, rtol=0)


@needs_packing
@pytest.mark.parametrize("rows", [1, 7])
def test_an_activation_is_that_of_the_function(rows):
    linear = nn.Linear(5, 6)
    inputs = 3 * torch.randn(rows, 5)
    with torch.no_grad():
        expected = nn.functional.gelu(linear(inputs))
        torch.testing.assert_close(PackedLinear(linear, "gelu")(inputs), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("family", "activation", "number"),
    [
        ("bert", "gelu", 3),
        ("bert", "gelu_new", 0),
        ("bert", "relu", 0),
        ("modernbert", "gelu", 0),
    ],
)
def test_only_exact_gelus_after_a_layer_are_fused(family, activation, number):
    key = "hidden_activation" if family == "modernbert" else "hidden_act"
    model = build_backbone({**tiny_backbone(family, 50), key: activation})
    fused = fused_activations(model)
    assert len(fused) == number
    assert all(layer.out_features == model.config.intermediate_size for layer in fused)


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
    shared = dict(encoder.model.named_parameters())
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
        for module in encoder.model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(0.5)
    assert encoder.backend.running is encoder.model
    assert np.abs(encoder.encode_queries(["a b c"]) - before).max() > 1e-3


def test_what_is_written_is_the_model_and_a_model_from_outside_is_not_packed(loaded, tmp_path):
    start, encoder = loaded()
    assert layers(start.backend.running, PackedLinear) == 0
    encoder.set_context(encoder.null_context())
    encoder.encode_queries(["a"])
    again = ContextualEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "again"), device="cpu")
    assert again.identity.sha256 == encoder.identity.sha256 == start.identity.sha256


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_precisions_are_left_alone(dtype):
    assert not can_pack(nn.Linear(2, 2, dtype=dtype))
    assert not can_pack(nn.Linear(2, 2, device="meta"))
