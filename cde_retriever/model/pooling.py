"""Mean pooling over a mask."""

import torch
from torch import Tensor


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states of real tokens.

    Args:
        hidden: Hidden states, (b, s, d).
        mask: One for tokens, zero for padding, (b, s); at least one token a row.

    Returns:
        Pooled vectors, (b, d), in the dtype of `hidden`; summed in at least float32.
    """
    weights = mask.unsqueeze(-1).to(torch.promote_types(hidden.dtype, torch.float32))
    return ((hidden * weights).sum(dim=1) / weights.sum(dim=1)).to(hidden.dtype)
