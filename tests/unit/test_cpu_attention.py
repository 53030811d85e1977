"""Attention of plain encoders in bfloat16: the same output, gradients as near as PyTorch's, and where it is used."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertConfig, BertModel

from cde_train.training import cpu_attention
from cde_train.training.cpu_attention import ATTENTION_NAME, attend, faster_attention

BATCH, HEADS, LENGTH, WIDTH = 3, 2, 6, 8


@pytest.fixture
def calls(monkeypatch):
    """Whether each attention was ours, in order."""
    found = []
    ours, theirs = cpu_attention._Attention.apply, cpu_attention.sdpa_attention_forward
    monkeypatch.setattr(cpu_attention._Attention, "apply", lambda *given: found.append(True) or ours(*given))
    monkeypatch.setattr(
        cpu_attention, "sdpa_attention_forward", lambda *given, **more: found.append(False) or theirs(*given, **more)
    )
    return found


def bert():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32}
    config = BertConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, attn_implementation="sdpa")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return BertModel(config, add_pooling_layer=False)


def drawn(dtype, length=LENGTH):
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, HEADS, length, WIDTH)
    found = [torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(4)]
    return [tensor.requires_grad_() for tensor in found[:3]], found[3]


def masks(dtype):
    seen = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
    seen[0, ..., -3:] = False
    added = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -math.inf)
    return {"none": None, "where to look": seen, "what to add": added, "per position": seen.expand(-1, 1, LENGTH, -1)}


@pytest.mark.parametrize("mask", masks(torch.float32))
@pytest.mark.parametrize("scale", [None, 0.4])
def test_same_output_and_gradients_as_near_as_those_of_pytorch(calls, mask, scale):
    exact, gradient = drawn(torch.float64)
    given, _ = drawn(torch.bfloat16)
    right = scaled_dot_product_attention(*exact, attn_mask=masks(torch.float64)[mask], scale=scale)
    theirs = scaled_dot_product_attention(*given, attn_mask=masks(torch.bfloat16)[mask], scale=scale)
    module = torch.nn.Module()
    module.is_causal = False
    output, _ = attend(module, *given, masks(torch.bfloat16)[mask], scaling=scale)
    ours = output.transpose(1, 2)
    assert calls == [True]
    assert torch.equal(ours, theirs)
    found = [
        torch.autograd.grad(o, g, gradient.to(o.dtype)) for o, g in ((right, exact), (theirs, given), (ours, given))
    ]
    for true, plain, own in zip(*found, strict=True):
        assert own.dtype == torch.bfloat16
        assert (own - true).abs().max() <= (plain - true).abs().max() + 0.01
        assert true.abs().max() > 0.1


def test_what_it_does_not_speed_up_is_as_before(calls):
    (query, key, value), _ = drawn(torch.bfloat16)
    open_, causal = torch.nn.Module(), torch.nn.Module()
    open_.is_causal, causal.is_causal = False, True
    attend(open_, query.detach(), key.detach(), value.detach(), None)
    attend(open_, query.float(), key.float(), value.float(), None)
    attend(causal, query, key, value, None)
    attend(open_, query, key, value, None, dropout=0.1)
    attend(open_, query, key[:, :, :3], value[:, :, :3], None)
    assert calls == [False] * 5


@pytest.mark.parametrize("precision", [torch.bfloat16, None])
def test_an_encoder_uses_it_meanwhile_and_trains_alike(calls, precision):
    model, ids = bert(), torch.arange(12).reshape(2, 6)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])

    towards = torch.randn(2, 6, 16)  # not lengths: those of normalised states are what they are, without a gradient

    def gradients():
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is not None):
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        (states.float() * mask[..., None] * towards).sum().backward()
        return states.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    states, plain = gradients()
    with faster_attention(torch.nn.ModuleList([model])):
        assert model.config._attn_implementation == ATTENTION_NAME
        assert "cde_bfloat16" not in str(model.config.to_dict())
        own_states, own = gradients()
    assert calls == [precision is not None] * 2
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(states, own_states)
    assert (own - plain).norm() < 0.02 * plain.norm()
    assert torch.equal(own, plain) == (precision is None)


def test_an_encoder_is_itself_again_after_an_error():
    model = bert()
    with pytest.raises(KeyError), faster_attention(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
