"""The contrastive loss against numbers worked out by hand."""

import math

import pytest
import torch

from cde_train.training.loss import contrastive_loss


def test_loss_by_hand() -> None:
    """Scores 0 or 1 at temperature 1: each query's positive scores 1, the two others 0."""
    loss = contrastive_loss(torch.eye(3), torch.zeros(3, 3, dtype=torch.bool), temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 2)), abs=1e-6)


def test_left_out_documents_leave_the_denominator_and_positives_never_do() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False], [False, False, False]])
    loss = contrastive_loss(torch.eye(3), mask, temperature=1.0)
    first, others = -math.log(math.e / (math.e + 1)), -math.log(math.e / (math.e + 2))
    assert loss.item() == pytest.approx((first + 2 * others) / 3, abs=1e-6)


def test_temperature_divides_the_scores() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    scores = torch.tensor([[0.3, 0.1, 0.2], [0.0, 0.4, 0.1]])
    loss = contrastive_loss(scores, none, temperature=0.5)
    expected = torch.stack([torch.logsumexp(2 * scores[i], 0) - 2 * scores[i, i] for i in range(2)]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
