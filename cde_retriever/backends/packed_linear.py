"""Linear layers on a CPU whose weights lie in the order in which oneDNN reads them.

`nn.Linear` keeps its weights row by row, and the matrix product brings them into a kernel's order in every call: for a
query of some twenty tokens that takes longer than the product itself. For a model that only runs it is done once.

The operators are those that PyTorch's own compiler puts into a frozen graph; where a build of PyTorch lacks them,
nothing is packed.
"""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """Computes what linear layers did when this was made; it has no gradient.

    Args:
        linears: Layers that read the same inputs, of a model that `can_pack` tells of, all with bias or all without;
            their outputs come side by side.
        activation: What the kernel does to outputs before it writes them: ``"none"``, or ``"gelu"``, the exact one.
    """

    def __init__(self, *linears: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        weights = torch.cat([linear.weight.detach() for linear in linears])
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs, (..., i), to outputs, (..., o)."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            inputs, self.weight, self.bias, self.activation, [], "none"
        )
        return output

    def add_to(self, residual: Tensor, inputs: Tensor) -> Tensor:
        """Return the outputs of inputs, (..., i), plus a residual, (..., o); there is no activation."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, self.weight, self.bias, "add")
        return output


def can_pack(model: nn.Module) -> bool:
    """Tell whether all weights are on a CPU, in a precision for which it and PyTorch have the operators."""
    operators = torch.ops.mkldnn
    if not torch._C._has_mkldnn or not hasattr(operators, "_reorder_linear_weight"):
        return False
    dtypes = {torch.float32}
    if operators._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    return all(weight.device.type == "cpu" and weight.dtype in dtypes for weight in model.parameters())
