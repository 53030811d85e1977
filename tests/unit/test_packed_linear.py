"""Packed weights give what the layers gave."""

import pytest
import torch
from torch import nn

from cde_retriever.backends.packed import PackedLinear, can_pack

needs_packing = pytest.mark.skipif(not can_pack(nn.Linear(2, 2)), reason="this build of PyTorch cannot pack")


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
        torch.testing.assert_close(PackedLinear(linear, activation="gelu")(inputs), expected, atol=1e-6, rtol=0)


@needs_packing
@pytest.mark.parametrize("shape", [(3, 5), (1, 7, 5), (2, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_side_by_side_and_a_residual(shape, bias):
    both = [nn.Linear(5, 6, bias=bias), nn.Linear(5, 2, bias=bias)]
    inputs, residual = torch.randn(shape), torch.randn(*shape[:-1], 8)
    with torch.no_grad():
        packed, expected = PackedLinear(*both), torch.cat([linear(inputs) for linear in both], dim=-1)
        torch.testing.assert_close(packed(inputs), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(packed.add_to(residual, inputs), expected + residual, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_precisions_are_left_alone(dtype):
    assert not can_pack(nn.Linear(2, 2, dtype=dtype))
    assert not can_pack(nn.Linear(2, 2, device="meta"))
