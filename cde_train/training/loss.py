"""Compute the contrastive loss (paper, section 3.1)."""

import torch
from torch import Tensor, nn


def contrastive_loss(scores: Tensor, false_negatives: Tensor, temperature: float) -> Tensor:
    """Return the mean InfoNCE loss of queries against in-batch documents.

        loss_i = -log( exp(s_ii / t) / sum_{j not in F_i} exp(s_ij / t) )

    Args:
        scores: Cosine similarities, (q, n) with n >= q; document i is the positive of query i.
        false_negatives: True where a document is left out of the denominator, (q, n). A positive is never left out.
        temperature: Divides the scores.
    """
    rows = torch.arange(len(scores), device=scores.device)
    mask = false_negatives.clone()
    mask[rows, rows] = False
    return nn.functional.cross_entropy((scores / temperature).masked_fill(mask, -torch.inf), rows)
