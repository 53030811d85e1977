"""Attention of a text to itself and to a context whose keys and values are already known.

`transformers` calls the function registered here in every attention layer of a backbone (its
``AttentionInterface``), for BERT, NomicBERT and ModernBERT alike, so no backbone is rewritten. Two passes use it:

1. over the context alone, `ContextRecorder` keeps each layer's keys and values;
2. over texts, `ContextReader` lets every text token attend to those and to its own text.

One softmax runs over context and text together, so the result equals a forward over the full sequence
[context, text] in which context tokens are masked from the text (``docs/design.md``, layout ``cached``).

In layers with a sliding window (ModernBERT) the window limits text-to-text attention only: the context has no
position, so it is as near to the last token as to the first.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION_NAME = "cde_context"


@dataclass
class ContextRecorder:
    """Keeps the keys and values, each (1, heads, c, head width), of every attention layer, in layer order."""

    layers: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Attend from context to context, without mask."""
        self.layers[module] = (key, value)
        return nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)


@dataclass
class ContextReader:
    """Lets texts attend to recorded keys and values.

    Attributes:
        layers: Of every attention layer its context keys and values, each (1, heads, c, head width), and what is added
            to the scores of those keys, (heads,). ``-inf`` closes a head to the context.
        padding: Added to the scores of text keys, 0 or ``-inf``, (b, 1, 1, s).
    """

    layers: dict[nn.Module, tuple[Tensor, Tensor, Tensor]]
    padding: Tensor

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        """Attend from text, (b, heads, s, head width), to context and text."""
        context_key, context_value, bias = self.layers[module]
        batch, heads, length, _ = query.shape
        text_mask = self.padding.expand(batch, heads, 1, length)
        if window is not None and length > window:
            text_mask = text_mask + _window_mask(length, window, query)
        if _can_share_keys(query):
            text_mask = text_mask.expand(-1, -1, length, -1)
            tensors = (query, key, value, text_mask, context_key, context_value)
            of_one_dtype = (tensor.to(value.dtype) for tensor in tensors)  # as autocast would
            shared: Tensor = _SharedKeys.apply(*of_one_dtype, bias, scaling)  # type: ignore[no-untyped-call]
            return shared
        shape = (batch, -1, -1, -1)
        context_mask = bias.to(query.dtype)[:, None, None].expand(
            batch, heads, text_mask.shape[2], context_key.shape[2]
        )
        return nn.functional.scaled_dot_product_attention(
            query,
            torch.cat([context_key.expand(shape), key], dim=2),
            torch.cat([context_value.expand(shape), value], dim=2),
            attn_mask=torch.cat([context_mask, text_mask], dim=3),
            scale=scaling,
        )


def _can_share_keys(query: Tensor) -> bool:
    """Tell whether there is a kernel that also returns softmax denominators: on a CPU, and not in an exported graph."""
    return (
        query.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
    )


class _SharedKeys(torch.autograd.Function):
    """Attends to context and text one after the other, and weighs both as one softmax would.

    All texts' queries read the context's keys as one sequence, so no text needs a copy of them, nor of their gradient.
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
        """Return (b, heads, s, head width); the mask, (b, heads, s, s), is added to the scores of text keys."""
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        batch, heads, length, _ = query.shape
        from_context, context_sum = attend(_as_one_text(query), context_key, context_value, scale=scale)
        from_text, text_sum = attend(query, key, value, attn_mask=mask, scale=scale)
        from_context = _as_texts(from_context, batch)
        context_sum = context_sum.view(heads, batch, length).transpose(0, 1) + bias[:, None]
        share = torch.sigmoid(context_sum - text_sum)
        output: Tensor = from_text.lerp(from_context, share.to(query.dtype).unsqueeze(-1))
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
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        batch, heads, length, _ = query.shape
        of_query, of_key, of_value = attend(
            gradient, query, key, value, output, total, 0.0, False, attn_mask=mask, scale=ctx.scale
        )
        before_bias = (total - bias[:, None]).transpose(0, 1).reshape(1, heads, batch * length)
        folded = (_as_one_text(gradient), _as_one_text(query), context_key, context_value, _as_one_text(output))
        more, of_context_key, of_context_value = attend(*folded, before_bias, 0.0, False, scale=ctx.scale)
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


def _window_mask(length: int, window: int, like: Tensor) -> Tensor:
    """Return 0 where two text tokens are less than `window` apart, ``-inf`` elsewhere, (1, 1, s, s)."""
    position = torch.arange(length, device=like.device)
    far = (position[:, None] - position[None, :]).abs() >= window
    return torch.zeros(1, 1, length, length, dtype=like.dtype, device=like.device).masked_fill(far, -math.inf)


def context_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers passes it to every attention function
    scaling: float | None = None,
    sliding_window: int | None = None,
    context: ContextRecorder | ContextReader | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend in one layer; the function `transformers` calls.

    ``sliding_window`` counts one more than the largest distance allowed, as `transformers` passes it. Dropout is
    not applied (paper, section 4.2). ``attention_mask`` is unused: `context` carries the padding.
    """
    if isinstance(context, ContextReader):
        output = context.attend(module, query, key, value, scaling, sliding_window)
    elif isinstance(context, ContextRecorder):
        output = context.attend(module, query, key, value, scaling)
    else:
        raise TypeError(f"attention {ATTENTION_NAME!r} needs context=, received {type(context).__name__}")
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, context_attention)
