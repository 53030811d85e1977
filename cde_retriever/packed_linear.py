"""Linear layers on a CPU whose weights lie in the order in which oneDNN reads them.

`nn.Linear` keeps its weights row by row, and the matrix product brings them into a kernel's order in every call: for a
query of some twenty tokens that takes longer than the product itself. For a model that only runs it is done once.

The operators are those that PyTorch's own compiler puts into a frozen graph; where a build of PyTorch lacks them,
nothing is packed.
"""

import copy
import itertools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class PackedLinear(nn.Module):
    """Computes what a linear layer did when this was made; it has no gradient.

    Args:
        linear: The layer, of a model that `can_pack` tells of. Its bias is shared, its weight copied.
        activation: What the kernel does to outputs before it writes them: ``"none"``, or ``"gelu"``, the exact one.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs, (..., i), to outputs, (..., o)."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, self.activation, [], "none")
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


def pack(model: Model) -> Model:
    """Return a copy that shares all tensors with the model but the weights of linear layers, which it has packed.

    The activation between BERT's two layers becomes part of the first (`fused_activations`), and dropout, which does
    nothing where a model runs, goes: one query passes thirteen of them.
    """
    replaced: dict[int, Any] = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    fused = fused_activations(model)
    for layer in model.modules():
        if type(layer) is nn.Linear:
            replaced[id(layer)] = PackedLinear(layer, "gelu" if layer in fused else "none")
        elif type(layer) is nn.Dropout or layer in fused.values():
            replaced[id(layer)] = nn.Identity()
    return copy.deepcopy(model, replaced)


def fused_activations(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return the exact GELUs that read a linear layer and nothing else does, by layer.

    Found by the names that `transformers` gives to both in BERT and the encoders that descend from it.
    """
    found: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        layer, activation = getattr(module, "dense", None), getattr(module, "intermediate_act_fn", None)
        if type(layer) is nn.Linear and getattr(activation, "act", None) is nn.functional.gelu:
            assert isinstance(activation, nn.Module)
            found[layer] = activation
    return found
