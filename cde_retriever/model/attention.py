"""Attend from a text to itself and to a context whose keys and values are already known.

`transformers` calls the function registered here in every attention layer of a backbone (its
``AttentionInterface``), for BERT, NomicBERT and ModernBERT alike, so no backbone is rewritten. Two passes use it:

1. over the context alone, `ContextRecorder` keeps each layer's keys and values;
2. over texts, `ContextReader` lets every text token attend to those and to its own text.

One softmax runs over context and text together, so the result equals a forward over the full sequence
[context, text] in which context tokens are masked from the text (docs/architecture.md, ``cached``). Where a
kernel allows it, its two parts are computed apart, so that no text needs a copy of the context's keys
(`cde_retriever.model.shared_keys`).

In layers with a sliding window (ModernBERT) the window limits text-to-text attention only: the context has no
position, so it is as near to the last token as to the first.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from cde_retriever.model.shared_keys import attend_to_shared_keys, can_share_keys

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
        if can_share_keys(query):
            text_mask = text_mask.expand(-1, -1, length, -1)
            return attend_to_shared_keys(query, key, value, text_mask, context_key, context_value, bias, scaling)
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
