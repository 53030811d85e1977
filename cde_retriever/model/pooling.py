"""Pool the token vectors of a text into one vector, in every way that sentence-transformers knows.

Masks, (b, s), say of each place: 0 padding, 1 a token, 2 a token of the prompt, which is read but not pooled.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

POOLED = 1


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average the hidden states of real tokens.

    Args:
        hidden: Hidden states, (b, s, d).
        mask: One for tokens, zero for padding, (b, s); a text without tokens gets zeros.

    Returns:
        Pooled vectors, (b, d), in the dtype of `hidden`; summed in at least float32.
    """
    weights = mask.unsqueeze(-1).to(torch.promote_types(hidden.dtype, torch.float32))
    return ((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)).to(hidden.dtype)


def pool(hidden: Tensor, mask: Tensor, ways: Sequence[str]) -> Tensor:
    """Pool hidden states in one way or several, whose results stand side by side.

    Args:
        hidden: Hidden states, (b, s, d).
        mask: As at the top of this file, (b, s).
        ways: Names from `cde_retriever.model.config.POOLINGS`; the formulas are those of
            `sentence_transformers.sentence_transformer.modules.Pooling`.

    Returns:
        Pooled vectors, (b, d · ways).
    """
    pooled = (mask == POOLED).to(mask.dtype)
    return torch.cat([_WAYS[way](hidden, pooled) for way in ways], dim=-1)


def after_token(input_ids: Tensor, mask: Tensor, token: int) -> Tensor:
    """Return a mask, (b, s), without all places up to the first of a token, where a text has it after place 0."""
    hits = (input_ids == token) & (mask != 0)
    hits[:, 0] = False
    seen = hits.cumsum(dim=1)
    later = (seen - hits.long()) > 0
    return torch.where(seen[:, -1:] > 0, later, True).to(mask.dtype) * mask


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return _at(hidden, mask.argmax(dim=1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return _at(hidden, (mask * places).argmax(dim=1))


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    """Return the hidden state at a place of each text, (b, d); places are (b,)."""
    return hidden.gather(1, places[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]


def _largest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)


def _mean_over_root(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(torch.promote_types(hidden.dtype, torch.float32))
    return ((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1).sqrt()).to(hidden.dtype)


def _mean_by_place(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average with weights 1, 2, 3 … by place; prompt tokens left out keep their places."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    weights = mask.to(dtype) * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=dtype)
    mixed = torch.bmm(weights[:, None], hidden.to(dtype))[:, 0]
    return (mixed / weights.sum(dim=1, keepdim=True).clamp_min(1)).to(hidden.dtype)


_WAYS = {
    "cls": _first,
    "lasttoken": _last,
    "max": _largest,
    "mean": mean_pool,
    "mean_sqrt_len_tokens": _mean_over_root,
    "weightedmean": _mean_by_place,
}
