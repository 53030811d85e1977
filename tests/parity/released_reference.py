"""The authors' two released networks, written out from their specification: one text at a time, released names.

Shares no code with `cde_retriever` or `transformers`; a variant only names what to compute. ``sizes`` are those of the
backbone, weights the tensors of the released file.
"""

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from cde_retriever.checkpoint.released import Variant
from tests.parity.reference import Weights, _attend, _linear, _norm, _rotate

EPS = {"v1": 1e-12, "v2": 1e-5}


def context_vector(source: Weights, sizes: dict, version: str, ids: list[int]) -> Tensor:
    """Return the first stage's vector of a context document, (d,)."""
    weights = _below(source, "first_stage_model.embedder.")
    words = _words(weights, version, ids)
    if version == "v2":
        hidden = _modern(weights, sizes, words, torch.arange(len(ids)))
    else:
        hidden = _nomic(weights, sizes, words, torch.arange(len(ids)))
    inner = _linear(source, "first_stage_model.mlp.0", hidden.mean(dim=0, keepdim=True))
    return _linear(source, "first_stage_model.mlp.2", gelu(inner))[0]


def text_vector(
    source: Weights, sizes: dict, version: str, context: Tensor, ids: list[int], variant: Variant, first: int
) -> Tensor:
    """Return the unit vector of a text, (d,).

    Args:
        source: The released tensors.
        sizes: The backbone's.
        version: ``"v1"`` or ``"v2"``.
        context: Vectors in the context's places, (J, d).
        ids: The text's tokens.
        variant: Says how often v2 norms words, and whether the pooled vector is added to the output head's.
        first: The first token that is pooled.
    """
    weights = _below(source, "second_stage_model.backbone.")
    start = "second_stage_model."
    ones = torch.ones(1, context.shape[1], dtype=context.dtype)
    inner = _linear(source, f"{start}prompt_projection.0", ones).relu()
    prompt = _linear(source, f"{start}prompt_projection.2", inner).reshape(8, -1)
    before = torch.cat([context, prompt])
    if version == "v1":
        places = torch.cat([torch.zeros(len(context)), torch.arange(len(context), len(before) + len(ids))])
        x = torch.cat([before, _words(weights, "v1", ids, norm=False)])
        hidden = _nomic(weights, sizes, _norm(weights, "emb_ln", x, EPS["v1"]), places)
    else:
        x = torch.cat([before, _words(weights, "v2", ids, norm=variant.norms != "once")])
        if variant.norms != "words":
            x = _norm(weights, "embeddings.norm", x, EPS["v2"])
        hidden = _modern(weights, sizes, x, torch.arange(len(x)))
    pooled = hidden[len(before) + first :].mean(dim=0, keepdim=True)
    output = _linear(
        source, f"{start}output_projection.2", _linear(source, f"{start}output_projection.0", pooled).relu()
    )
    output = (output + pooled if variant.residual else output)[0]
    return output / output.norm()


def _below(source: Weights, start: str) -> Weights:
    return {name.removeprefix(start): tensor for name, tensor in source.items() if name.startswith(start)}


def _words(weights: Weights, version: str, ids: list[int], *, norm: bool = True) -> Tensor:
    if version == "v1":
        x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
        return _norm(weights, "emb_ln", x, EPS["v1"]) if norm else x
    x = weights["embeddings.tok_embeddings.weight"][ids]
    return _norm(weights, "embeddings.norm", x, EPS["v2"]) if norm else x


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.reshape(len(qkv), 3, heads, -1).unbind(dim=1)
    return q, k, v


def _nomic(weights: Weights, sizes: dict, x: Tensor, places: Tensor) -> Tensor:
    mask = torch.zeros(sizes["num_attention_heads"], len(x), len(x), dtype=x.dtype)
    for layer in range(sizes["num_hidden_layers"]):
        name = f"encoder.layers.{layer}"
        q, k, v = _split(_linear(weights, f"{name}.attn.Wqkv", x), sizes["num_attention_heads"])
        attended = _attend(_rotate(q, places, 1000.0), _rotate(k, places, 1000.0), v, mask)
        x = _norm(weights, f"{name}.norm1", x + _linear(weights, f"{name}.attn.out_proj", attended), EPS["v1"])
        inner = _linear(weights, f"{name}.mlp.fc11", x) * silu(_linear(weights, f"{name}.mlp.fc12", x))
        x = _norm(weights, f"{name}.norm2", x + _linear(weights, f"{name}.mlp.fc2", inner), EPS["v1"])
    return x


def _modern(weights: Weights, sizes: dict, x: Tensor, places: Tensor) -> Tensor:
    far = (places[:, None] - places[None]).abs() > sizes["local_attention"] // 2
    for layer in range(sizes["num_hidden_layers"]):
        name, whole = f"layers.{layer}", layer % 3 == 0
        mask = torch.zeros(sizes["num_attention_heads"], len(x), len(x), dtype=x.dtype)
        if not whole:
            mask.masked_fill_(far, -torch.inf)
        theta = 160000.0 if whole else 10000.0
        normed = _norm(weights, f"{name}.attn_norm", x, EPS["v2"]) if layer else x
        q, k, v = _split(_linear(weights, f"{name}.attn.Wqkv", normed), sizes["num_attention_heads"])
        attended = _attend(_rotate(q, places, theta), _rotate(k, places, theta), v, mask)
        x = x + _linear(weights, f"{name}.attn.Wo", attended)
        inner, gate = _linear(weights, f"{name}.mlp.Wi", _norm(weights, f"{name}.mlp_norm", x, EPS["v2"])).chunk(
            2, dim=1
        )
        x = x + _linear(weights, f"{name}.mlp.Wo", gelu(inner) * gate)
    return _norm(weights, "final_norm", x, EPS["v2"])
