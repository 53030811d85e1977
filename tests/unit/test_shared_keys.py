"""Attention of texts to shared keys: output and every gradient are those of one softmax over copied keys."""

import itertools
import math

import pytest
import torch

from cde_retriever.model import attention, shared_keys
from cde_retriever.model.attention import ContextReader

HEADS, WIDTH, CONTEXT = 4, 8, 7
NAMES = ("query", "key", "value", "context key", "context value", "bias")


def tensors(batch, length, dtype=torch.float64, closed=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    query, key, value = (draw(batch, length, HEADS, WIDTH).transpose(1, 2) for _ in range(3))
    context_key, context_value = (draw(1, HEADS, CONTEXT, WIDTH) for _ in range(2))
    bias = draw(HEADS)
    if closed:
        bias[1] = -math.inf
    found = [query, key, value, context_key, context_value, bias]
    return [tensor.detach().requires_grad_() for tensor in found], draw(batch, HEADS, length, WIDTH)


def padding(batch, length, dtype=torch.float64):
    added = torch.zeros(batch, 1, 1, length, dtype=dtype)
    if length > 2:
        added[0, ..., -2:] = -math.inf
    return added


def attend(monkeypatch, given, shared, window=None, scaling=None):
    query, key, value, context_key, context_value, bias = given
    reader = ContextReader({None: (context_key, context_value, bias)}, padding(len(query), query.shape[2], query.dtype))
    with monkeypatch.context() as patch:
        if not shared:
            patch.setattr(attention, "can_share_keys", lambda _: False)
        return reader.attend(None, query, key, value, scaling, window)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(("window", "scaling"), [(None, None), (2, 0.3)])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 6), (3, 5), (5, 40)])
def test_output_and_gradients_are_those_of_one_softmax(monkeypatch, batch, length, window, scaling, closed):
    given, gradient = tensors(batch, length, closed=closed)
    read = (padding(batch, length) == 0).transpose(2, 3)  # what padding attends to is read by nobody
    found = []
    for shared in (True, False):
        output = attend(monkeypatch, given, shared, window, scaling)
        assert output.isfinite().all()
        found.append([output * read, *torch.autograd.grad(output, given, gradient * read)])
    for name, ours, theirs in zip(("output", *NAMES), *found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    assert (found[0][-1] != 0).tolist() == [not closed or head != 1 for head in range(HEADS)]


@pytest.mark.parametrize("shared", [True, False], ids=["on a CPU", "elsewhere"])
def test_gradients_are_those_of_finite_differences(monkeypatch, shared):
    given, _ = tensors(2, 4)
    assert torch.autograd.gradcheck(lambda *tensors: attend(monkeypatch, tensors, shared), given, atol=1e-7)


@pytest.mark.parametrize("length", [5, 300], ids=["few keys", "many keys"])
def test_low_precision_is_as_near_as_one_softmax_in_it(monkeypatch, length):
    exact, gradient = tensors(3, length)
    low, _ = tensors(3, length, torch.bfloat16)
    found = {}
    for name, given, shared in (("exact", exact, False), ("shared", low, True), ("copied", low, False)):
        output = attend(monkeypatch, given, shared)
        found[name] = [t.double() for t in (output, *torch.autograd.grad(output, given, gradient.to(output.dtype)))]
    for ours, theirs, right in zip(found["shared"], found["copied"], found["exact"], strict=True):
        assert (ours - right).abs().max() < 2 * (theirs - right).abs().max() + 0.02


@pytest.mark.parametrize("leave_out", range(len(NAMES)))
def test_each_gradient_alone(monkeypatch, leave_out):
    """Training freezes now this, now that."""
    given, gradient = tensors(2, 4)
    frozen = [tensor.detach() if i == leave_out else tensor for i, tensor in enumerate(given)]
    wanted = [tensor for i, tensor in enumerate(frozen) if i != leave_out]
    pairs = [torch.autograd.grad(attend(monkeypatch, frozen, shared), wanted, gradient) for shared in (True, False)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_the_kernel_is_there_and_used(monkeypatch):
    """Otherwise the tests above compare a function with itself."""
    used = []
    original = shared_keys._SharedKeys.apply
    monkeypatch.setattr(shared_keys._SharedKeys, "apply", lambda *given: used.append(1) or original(*given))
    given, _ = tensors(2, 4)
    for shared, grad in itertools.product((True, False), (True, False)):
        with torch.set_grad_enabled(grad):
            attend(monkeypatch, given, shared)
    assert len(used) == 2
