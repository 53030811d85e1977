"""Tell a pooled vector about its corpus: where the corpus lies, and how it spreads.

    y = normalize((z - a(z) m) W)        z: a text's plain unit vector; m, W: of the context alone

m is the context's mean, shrunk as ``c / (c + mean prior)``; W = S^(-power / 2) is a whitening by the context's
covariance, scaled to mean variance 1 and mixed with the identity at ``covariance prior / (covariance prior + c)``. The
priors count documents, so any context size may be used, and a context of none changes nothing. The amount a(z) that is
subtracted is learned from the text, the one way in which a query and a document can differ.

Moments are the dense counterpart of BM25's document frequencies. Cost: one eigen-decomposition a context, O(d³), and
one (d, d) product a text. Everything is computed in float32 or higher, autocast or not.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

START_MEAN_PRIOR, START_COVARIANCE_PRIOR = 8.0, 64.0
LEAST_VARIANCE = 1e-6
"""Total variance of unit vectors below which they count as one point; what float32 makes of equal rows is less."""


class MomentHead(nn.Module):
    """The learned numbers of the formula above; starts as the identity.

    Args:
        width: Width of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.zeros(()))
        self.amount_direction = nn.Parameter(torch.zeros(width))
        self.power = nn.Parameter(torch.zeros(()))
        self.log_mean_prior = nn.Parameter(torch.tensor(math.log(START_MEAN_PRIOR)))
        self.log_covariance_prior = nn.Parameter(torch.tensor(math.log(START_COVARIANCE_PRIOR)))

    def moments(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return m, (d,), and W, (d, d), of unit context vectors, (c, d)."""
        with torch.autocast(context.device.type, enabled=False):
            rows = at_least_float32(context)
            count, width = rows.shape
            identity = torch.eye(width, dtype=rows.dtype, device=rows.device)
            if count == 0:
                return rows.new_zeros(width), identity
            mean = rows.mean(dim=0)
            mean_prior, prior = (at_least_float32(p).exp() for p in (self.log_mean_prior, self.log_covariance_prior))
            centred = rows - mean
            covariance = centred.T @ centred / count
            variance = covariance.trace().clamp_min(LEAST_VARIANCE) / width
            mixed = (count / variance * covariance + prior * identity) / (count + prior)
            change: Tensor = PowerLessOne.apply(mixed, -at_least_float32(self.power) / 2)  # type: ignore[no-untyped-call]
            return mean * (count / (count + mean_prior)), identity + change

    def forward(self, plain: Tensor, mean: Tensor, transform: Tensor) -> Tensor:
        """Return unit vectors, (b, d), of plain unit vectors, (b, d), given a context's moments."""
        with torch.autocast(plain.device.type, enabled=False):
            plain = at_least_float32(plain)
            # Over √d, so that an optimiser's step moves the text's share as far as it moves the common one.
            direction = at_least_float32(self.amount_direction) / math.sqrt(plain.shape[1])
            amount = at_least_float32(self.amount) + plain @ direction
            return nn.functional.normalize((plain - amount[:, None] * mean) @ transform, dim=-1)


class PowerLessOne(torch.autograd.Function):
    """A symmetric positive definite matrix to a power, less the identity: exactly 0 at power 0.

    The gradient through an eigen-decomposition divides by differences of eigenvalues, which are 0 wherever a context
    has fewer documents than dimensions. That of the power itself exists (Daleckii and Krein): with V diag(a) Vᵀ the
    matrix and f its function, dF = V (f[a_i, a_j] ∘ (Vᵀ dA V)) Vᵀ, where f[a, b] = (f(a) - f(b)) / (a - b)
    and f[a, a] = f'(a).
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, power: Tensor) -> Tensor:
        """Return ``matrix ** power - 1``, (d, d)."""
        # Not every device has it (MPS), and it is needed once a context.
        found = torch.linalg.eigh(matrix.cpu() if matrix.device.type == "mps" else matrix)
        values, vectors = (tensor.to(matrix.device) for tensor in found)
        logs = values.log()
        ctx.save_for_backward(logs, vectors, power)
        output: Tensor = (vectors * torch.expm1(power * logs)) @ vectors.T
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients at matrix and power."""
        logs, vectors, power = ctx.saved_tensors
        inner = vectors.T @ ((gradient + gradient.T) / 2) @ vectors
        # (e^px - e^py) / (e^x - e^y), written so that near x and y cost no digits.
        half = (logs[:, None] - logs[None, :]) / 2
        middle = (logs[:, None] + logs[None, :]) / 2
        equal = half == 0
        ratio = torch.where(equal, power, torch.sinh(power * half) / torch.where(equal, 1.0, torch.sinh(half)))
        differences = ratio * torch.exp((power - 1) * middle)
        return vectors @ (inner * differences) @ vectors.T, (inner.diagonal() * logs * torch.exp(power * logs)).sum()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
