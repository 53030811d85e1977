"""Attend from many texts to keys that they share, and from each to its own, without a copy of the shared ones.

The obvious way joins the shared keys to each text's own: for 32 texts, 512 context documents and a width of 384 it
copies 50 MB a layer, and as much gradient back. Here the shared part is one attention of all tokens of all texts.
"""

from typing import Any

import torch
from torch import Tensor

_FEW_KEYS = 256


def can_share_keys(query: Tensor) -> bool:
    """Tell whether there is a kernel that also returns softmax denominators: on a CPU, and not in an exported graph."""
    return (
        query.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
    )


def attend_to_shared_keys(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    shared_key: Tensor,
    shared_value: Tensor,
    bias: Tensor,
    scale: float | None,
) -> Tensor:
    """Attend by one softmax over shared and own keys, where `can_share_keys`; differentiable but for the mask.

    Args:
        query: Of texts, (b, heads, s, head width).
        key: Of texts, of that shape.
        value: Of texts, of that shape; its dtype is that of the computation.
        mask: Added to the scores of own keys, (b, heads, s, s). A row of ``-inf`` alone, as padding may have, gives
            finite numbers without meaning.
        shared_key: (1, heads, c, head width).
        shared_value: (1, heads, c, head width).
        bias: Added to the scores of shared keys, (heads,); ``-inf`` closes a head to them.
        scale: Of scores; None for one over the root of the head width.

    Returns:
        (b, heads, s, head width).
    """
    tensors = (query, key, value, mask, shared_key, shared_value)
    of_one_dtype = (tensor.to(value.dtype) for tensor in tensors)  # as autocast would
    output: Tensor = _SharedKeys.apply(*of_one_dtype, bias, scale)  # type: ignore[no-untyped-call]
    return output


def attention_gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    output: Tensor,
    total: Tensor,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values of one attention on a CPU, each in the shape of its own.

    In bfloat16 the kernel takes three to five times as long as in float32 where keys are few (12 heads of 32, one
    core: 111 against 39 ms for 32 texts of 128 tokens), so it gets float32 there. Of long texts it is the faster.

    Args:
        gradient: Of the output, (b, heads, s, head width).
        query: (b, heads, s, head width).
        key: (b, heads, c, head width).
        value: (b, heads, c, head width).
        mask: Added to the scores, (b, heads, s, c), or None.
        output: What attention gave, (b, heads, s, head width).
        total: Logarithm of the softmax's denominators, (b, heads, s).
        scale: Of scores; None for one over the root of the head width.
    """
    if query.dtype == torch.bfloat16 and key.shape[2] <= _FEW_KEYS:
        gradient, query, key, value, output = (t.float() for t in (gradient, query, key, value, output))
        mask = None if mask is None else mask.float()
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    found: tuple[Tensor, Tensor, Tensor] = backward(
        gradient, query, key, value, output, total, 0.0, False, attn_mask=mask, scale=scale
    )
    return found


class _SharedKeys(torch.autograd.Function):
    """Attends to the context and to the text one after the other, and weighs both as one softmax would.

    With ``L`` the logarithm of a softmax's denominator, ``e^(L_context) : e^(L_text)`` are the shares of both outputs.
    Backward, each part's kernel gets output and denominator of the whole (FlashAttention; Dao et al. 2022, appendix B):
    then what it takes for its own softmax is its part of the one. What is added to the context's scores gets the
    gradient ``share (g · out_context - g · out)``, g that of the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        context_key: Tensor,
        context_value: Tensor,
        bias: Tensor,
        scale: float | None,
    ) -> Tensor:
        """Return what `attend_to_shared_keys` returns."""
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        batch, heads, length, _ = query.shape
        from_context, context_sum = attend(_as_one_text(query), context_key, context_value, scale=scale)
        from_text, text_sum = attend(query, key, value, attn_mask=mask, scale=scale)
        from_context = _as_texts(from_context, batch)
        context_sum = context_sum.view(heads, batch, length).transpose(0, 1) + bias[:, None]
        share = torch.sigmoid(context_sum - text_sum)
        output: Tensor = from_text.lerp(from_context, share.to(query.dtype).unsqueeze(-1))
        if any(ctx.needs_input_grad):
            total = torch.logaddexp(context_sum, text_sum)
            ctx.scale = scale
            ctx.save_for_backward(
                query, key, value, mask, context_key, context_value, bias, from_context, output, share, total
            )
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `forward`'s arguments."""
        (gradient,) = gradients
        query, key, value, mask, context_key, context_value, bias, from_context, output, share, total = (
            ctx.saved_tensors
        )
        batch, heads, length, _ = query.shape
        of_query, of_key, of_value = attention_gradients(gradient, query, key, value, mask, output, total, ctx.scale)
        before_bias = (total - bias[:, None]).transpose(0, 1).reshape(1, heads, batch * length)
        folded_gradient, folded_query, folded_output = (_as_one_text(t) for t in (gradient, query, output))
        more, of_context_key, of_context_value = attention_gradients(
            folded_gradient, folded_query, context_key, context_value, None, folded_output, before_bias, ctx.scale
        )
        of_bias = (share * (gradient * (from_context - output)).sum(dim=-1)).sum(dim=(0, 2))
        of_query = of_query + _as_texts(more, batch)
        return of_query, of_key, of_value, None, of_context_key, of_context_value, of_bias.to(bias.dtype), None


def _as_one_text(vectors: Tensor) -> Tensor:
    """Return (b, heads, s, width) as one text of all tokens, (1, heads, b * s, width)."""
    return vectors.transpose(0, 1).reshape(1, vectors.shape[1], -1, vectors.shape[3])


def _as_texts(vectors: Tensor, batch: int) -> Tensor:
    """Undo `_as_one_text`."""
    _, heads, _, width = vectors.shape
    return vectors.view(heads, batch, -1, width).transpose(0, 1)
