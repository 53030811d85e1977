"""Copy a model to one that only runs, on a CPU: with packed linear layers, and a BERT of nothing but its arithmetic.

`nn.Linear` keeps its weights row by row, and the matrix product brings them into a kernel's order in every call: for a
query of some twenty tokens that takes longer than the product itself. Here it is done once, by the operators that
PyTorch's own compiler puts into a frozen graph; where a build of PyTorch lacks them, nothing is packed.

For such a query the arithmetic takes little more time than calling it does. `transformers` computes a layer of BERT in
thirteen modules and some twenty operations; here it is half as many, in one.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Model = TypeVar("Model", bound=nn.Module)

BERT_MODELS = frozenset({"BertModel", "RobertaModel", "XLMRobertaModel"})
"""Classes of `transformers` that compute the same thing, under the same names, on their embeddings."""


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


class PackedBert(nn.Module):
    """Computes what an encoder of BERT's kind did when this was made; it has no gradient.

    Args:
        backbone: The encoder, without dropout and pooler, one that `can_pack` tells of.
        layers: Its layers.
        embeddings: Its embeddings.
    """

    def __init__(self, backbone: PreTrainedModel, layers: list["PackedBertLayer"], embeddings: nn.Module) -> None:
        super().__init__()
        self.config, self.dtype = backbone.config, backbone.dtype
        self.embeddings = embeddings
        # Others count positions from the first token that is no padding.
        self.embed = _embed_from_zero(embeddings) if type(backbone).__name__ == "BertModel" else None
        self.layers = nn.ModuleList(layers)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of word vectors."""
        table: nn.Module = self.embeddings.word_embeddings  # type: ignore[assignment]
        return table

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **settings: Any,
    ) -> BaseModelOutput:
        """Return the last hidden states, (b, s, d); arguments are those of `transformers`, the mask (b, s)."""
        if self.embed is None or input_ids is None or position_ids is not None:
            hidden = self.embeddings(input_ids=input_ids, position_ids=position_ids, inputs_embeds=inputs_embeds)
        else:
            hidden = self.embed(input_ids)
        mask = None
        if attention_mask is not None and not attention_mask.all():
            mask = (attention_mask != 0)[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, mask, settings)
        return BaseModelOutput(last_hidden_state=hidden)


class PackedBertLayer(nn.Module):
    """One layer: queries, keys and values are one product; products apply GELU and add the residual as they write."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, own = layer.attention, layer.attention.self
        self.scaling: float = own.scaling
        self.head_width: int = own.attention_head_size
        implementation = own.config._attn_implementation
        self.attend = _attend if implementation == "sdpa" else ALL_ATTENTION_FUNCTIONS[implementation]
        self.attention_in = PackedLinear(own.query, own.key, own.value)
        self.attention_out = PackedLinear(attention.output.dense)
        self.attention_norm = _norm(attention.output.LayerNorm)
        activation = layer.intermediate.intermediate_act_fn
        fused = getattr(activation, "act", None) is nn.functional.gelu
        self.expand = PackedLinear(layer.intermediate.dense, activation="gelu" if fused else "none")
        self.activation = None if fused else activation
        self.contract = PackedLinear(layer.output.dense)
        self.norm = _norm(layer.output.LayerNorm)

    def forward(self, hidden: Tensor, mask: Tensor | None, settings: dict[str, Any]) -> Tensor:
        """Return hidden states, (b, s, d), of those before.

        Args:
            hidden: The layer's input.
            mask: True where keys are no padding, (b, 1, 1, s); None if none is.
            settings: What the attention function takes besides.
        """
        batch, length, _width = hidden.shape
        heads = self.attention_in(hidden).view(batch, length, -1, self.head_width).transpose(1, 2)
        query, key, value = heads.chunk(3, dim=1)
        mixed, _weights = self.attend(self, query, key, value, mask, scaling=self.scaling, **settings)
        hidden = self.attention_norm(self.attention_out.add_to(hidden, mixed.reshape(hidden.shape)))
        expanded = self.expand(hidden)
        if self.activation is not None:
            expanded = self.activation(expanded)
        return self.norm(self.contract.add_to(hidden, expanded))


def _attend(
    module: nn.Module,  # noqa: ARG001 - the signature of attention functions in `transformers`
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
) -> tuple[Tensor, None]:
    output = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2), None


def _norm(layer: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    shape, weight, bias, eps = layer.normalized_shape, layer.weight.detach(), layer.bias.detach(), layer.eps
    return lambda hidden: torch.layer_norm(hidden, shape, weight, bias, eps)


def _embed_from_zero(embeddings: Any) -> Callable[[Tensor], Tensor]:
    """Return what embeds token ids, (b, s), at positions 0 to s - 1, as the first of two texts."""
    words, norm = embeddings.word_embeddings, _norm(embeddings.LayerNorm)
    first = embeddings.token_type_embeddings.weight[0].detach()
    positions = embeddings.position_embeddings.weight.detach()
    # Added in the order of `transformers`, so that vectors are equal to the last bit.
    return lambda input_ids: norm(words(input_ids) + first + positions[: input_ids.shape[1]])


def pack(model: Model) -> Model:
    """Return a copy that shares all tensors with the model but the weights of linear layers, which it has packed.

    Dropout, which does nothing where a model runs, goes: one query passes many.
    """
    replaced: dict[int, Any] = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    _replace(model, replaced)
    return copy.deepcopy(model, replaced)


def _replace(module: nn.Module, replaced: dict[int, Any]) -> None:
    """Note what takes the place of a module, or of modules inside, by the identity of what it replaces."""
    if id(module) in replaced:
        return
    if type(module) is nn.Linear:
        replaced[id(module)] = PackedLinear(module)
    elif type(module) is nn.Dropout:
        replaced[id(module)] = nn.Identity()
    elif type(module).__name__ in BERT_MODELS and not module.config.is_decoder:  # type: ignore[union-attr]
        replaced[id(module)] = _pack_bert(module, replaced)
    else:
        for child in module.children():
            _replace(child, replaced)


def _pack_bert(backbone: Any, replaced: dict[int, Any]) -> PackedBert:
    layers = [PackedBertLayer(layer) for layer in backbone.encoder.layer]
    for layer, packed in zip(backbone.encoder.layer, layers, strict=True):
        # Whoever remembers a layer's attention, as `cached` does, remembers what attends in its place.
        replaced[id(layer.attention.self)] = packed
    _replace(backbone.embeddings, replaced)
    return PackedBert(backbone, layers, copy.deepcopy(backbone.embeddings, replaced))
