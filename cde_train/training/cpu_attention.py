"""Compute the attention of plain encoders in bfloat16 on a CPU, with the faster of two kernels on the way back.

PyTorch's own takes three to five times as long backward in bfloat16 as in float32 where texts are short
(`cde_retriever.model.shared_keys.attention_gradients`), more than all else in a layer. `transformers` calls the
function registered here in place of its ``sdpa``; forward it is the same kernel and gives the same bits.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cde_retriever.model.shared_keys import attention_gradients, can_share_keys

ATTENTION_NAME = "cde_bfloat16"


@contextmanager
def faster_attention(model: nn.Module) -> Iterator[None]:
    """Let every encoder in a model that attends by ``sdpa`` attend by ours meanwhile."""
    encoders = [
        module
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa"
    ]
    for encoder in encoders:
        encoder.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        for encoder in encoders:
            encoder.set_attn_implementation("sdpa")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend in one layer; the function `transformers` calls. What is not ours to speed up is done by ``sdpa``."""
    causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if (
        query.dtype != torch.bfloat16
        or not query.requires_grad
        or not can_share_keys(query)
        or dropout
        or (attention_mask is None and causal)
        or not (query.shape == key.shape == value.shape)
        or settings.get("position_bias") is not None
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
        )
    mask = None if attention_mask is None else _added(attention_mask, query)
    output: Tensor = _Attention.apply(query, key, value, mask, scaling)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


def _added(mask: Tensor, query: Tensor) -> Tensor:
    """Return what a mask adds to scores, (b, heads, s, s); of a mask that says where to look, 0 or ``-inf``."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(~mask, -math.inf)
    return mask.to(query.dtype).expand(*query.shape[:3], query.shape[2])


class _Attention(torch.autograd.Function):
    """Attends by PyTorch's kernel for CPUs; backward by `attention_gradients`."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
    ) -> Tensor:
        """Return what `attend` returns, heads before positions."""
        output: Tensor
        output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=mask, scale=scale
        )
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, mask, output, total)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `forward`'s arguments."""
        query, key, value, mask, output, total = ctx.saved_tensors
        found = attention_gradients(gradients[0], query, key, value, mask, output, total, ctx.scale)
        return *found, None, None


AttentionInterface.register(ATTENTION_NAME, attend)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
