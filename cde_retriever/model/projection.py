"""Compute what stands between pooling and the final normalisation: the layers a sentence-transformers model adds."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, cat, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


class DenseLayer(nn.Module):
    """A linear map, an activation, and the input added again where `residual` says so."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        inputs, outputs = settings["inputs"], settings["outputs"]
        self.linear = nn.Linear(inputs, outputs, bias=settings["bias"])
        self.activation = ACTIVATIONS[settings["activation"]]()
        self.adds_input = settings["residual"]
        self.residual = nn.Linear(inputs, outputs, bias=False) if self.adds_input and inputs != outputs else None

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors, (b, inputs), to (b, outputs)."""
        output: Tensor = self.activation(self.linear(vectors))
        if not self.adds_input:
            return output
        return output + (vectors if self.residual is None else self.residual(vectors))


class UnitLength(nn.Module):
    """Bring vectors to length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return unit vectors, (b, d)."""
        return nn.functional.normalize(vectors, dim=-1)


class Lengths(nn.Module):
    """Make unit vectors that still know their length, for encoders that compare by inner product.

    A vector v becomes (v / M, √(1 - |v|² / M²)), with v no longer than M. Beside a query (q / |q|, 0), whose length
    changes no ranking, its cosine is q · v / (|q| M): cosines rank as inner products do (Bachrach et al. 2014).
    """

    def __init__(self, longest: float) -> None:
        super().__init__()
        self.longest = longest

    def forward(self, vectors: Tensor) -> Tensor:
        """Return unit vectors, (b, d + 1), of any vectors, (b, d)."""
        scaled = vectors / self.longest
        scaled = scaled / scaled.norm(dim=-1, keepdim=True).clamp_min(1)
        rest = (1 - (scaled * scaled).sum(dim=-1, keepdim=True)).clamp_min(0).sqrt()
        return cat([scaled, rest], dim=-1)


class Projection(nn.Sequential):
    """The layers named by ``ModelConfig.projection``, one after another."""

    def __init__(self, layers: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(*map(_build, layers))


def _build(settings: Mapping[str, Any]) -> nn.Module:
    if settings["kind"] == "dense":
        return DenseLayer(settings)
    if settings["kind"] == "layer_norm":
        return nn.LayerNorm(settings["outputs"])
    return Lengths(settings["longest"]) if settings["kind"] == "lengths" else UnitLength()
