"""An independent, slow second stage: plain tensor algebra in float64 over the full sequence [context, text].

Shares no code with `cde_retriever` or `transformers`: it reads weights by name and writes every formula out. Who may
attend to whom is an explicit (L, L) matrix, L = context + text, so the `cached` layout is the matrix

                 context   text
    context         1        0
    text            1        1

and the `joint` layout is all ones. One text at a time, no padding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

Weights = dict[str, Tensor]


def reference_vector(
    weights: Weights, family: str, settings: dict, prefix: Tensor, ids: list[int], *, layout: str, gate: Tensor | None
) -> Tensor:
    """Return the unit vector of one text, (d,).

    Args:
        weights: The backbone's state, by name.
        family: ``model_type``.
        settings: The backbone's sizes.
        prefix: Context and prompt tokens as they enter the backbone, (c, d).
        ids: Token ids of the text.
        layout: ``"cached"`` or ``"joint"``.
        gate: Added, less log c, to the scores of context keys for text queries, (layers, heads); None for joint.
    """
    weights = {name: value.double() for name, value in weights.items()}
    words = {"bert": "embeddings.word_embeddings", "nomic_bert": "embeddings.word_embeddings"}
    table = weights[words.get(family, "embeddings.tok_embeddings") + ".weight"]
    size, length = len(prefix), len(ids)
    x = torch.cat([prefix.double(), table[ids]])
    positions = torch.cat([torch.zeros(size), torch.arange(length)]).long()
    in_text = torch.arange(size + length) >= size
    allowed = torch.ones(len(x), len(x), dtype=torch.bool)
    if layout == "cached":
        allowed[:size, size:] = False

    def scores_mask(layer: int, window: int | None) -> Tensor:
        mask = torch.zeros(settings["num_attention_heads"], len(x), len(x), dtype=torch.float64)
        if gate is not None:
            mask[:, size:, :size] += (gate[layer].double() - math.log(size))[:, None, None]
        mask.masked_fill_(~allowed, -math.inf)
        if window is not None:
            distance = (positions[:, None] - positions[None, :]).abs()
            beyond = (distance > window) & in_text[:, None] & in_text[None, :]
            mask.masked_fill_(beyond, -math.inf)
        return mask

    run = {"bert": _bert, "nomic_bert": _nomic_bert, "modernbert": _modernbert}[family]
    hidden = run(weights, settings, x, positions, scores_mask)
    pooled = hidden[size:].mean(dim=0)
    return pooled / pooled.norm()


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention, head by head: q, k, v are (L, heads, width)."""
    heads = []
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h].T / math.sqrt(q.shape[2]) + mask[h]
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        heads.append(weights / weights.sum(dim=1, keepdim=True) @ v[:, h])
    return torch.cat(heads, dim=1)


def _norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(dim=1, keepdim=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights.get(f"{name}.bias", torch.zeros(1))


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(1))


def _rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotate (L, heads, width): the pairs (i, i + width/2) turn by position / theta^(2i/width)."""
    half = x.shape[2] // 2
    angles = positions[:, None].double() / theta ** (torch.arange(half).double() / half)
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=2)


def _bert(weights: Weights, settings: dict, x: Tensor, positions: Tensor, mask: Callable) -> Tensor:
    eps, heads = 1e-12, settings["num_attention_heads"]
    x = (
        x
        + weights["embeddings.token_type_embeddings.weight"][0]
        + weights["embeddings.position_embeddings.weight"][positions]
    )
    x = _norm(weights, "embeddings.LayerNorm", x, eps)
    for i in range(settings["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        q, k, v = (
            _linear(weights, f"{name}.attention.self.{part}", x).reshape(len(x), heads, -1)
            for part in ("query", "key", "value")
        )
        attended = _linear(weights, f"{name}.attention.output.dense", _attend(q, k, v, mask(i, None)))
        x = _norm(weights, f"{name}.attention.output.LayerNorm", x + attended, eps)
        inner = gelu(_linear(weights, f"{name}.intermediate.dense", x))
        x = _norm(weights, f"{name}.output.LayerNorm", x + _linear(weights, f"{name}.output.dense", inner), eps)
    return x


def _nomic_bert(weights: Weights, settings: dict, x: Tensor, positions: Tensor, mask: Callable) -> Tensor:
    eps, heads, theta = 1e-12, settings["num_attention_heads"], 1000.0
    x = _norm(weights, "embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0], eps)
    for i in range(settings["num_hidden_layers"]):
        name = f"layers.{i}"
        q, k, v = (
            _linear(weights, f"{name}.self_attn.{part}_proj", x).reshape(len(x), heads, -1) for part in ("q", "k", "v")
        )
        q, k = _rotate(q, positions, theta), _rotate(k, positions, theta)
        attended = _linear(weights, f"{name}.self_attn.o_proj", _attend(q, k, v, mask(i, None)))
        x = _norm(weights, f"{name}.post_attention_layernorm", x + attended, eps)
        inner = silu(_linear(weights, f"{name}.mlp.gate_proj", x)) * _linear(weights, f"{name}.mlp.up_proj", x)
        x = _norm(weights, f"{name}.post_mlp_layernorm", x + _linear(weights, f"{name}.mlp.down_proj", inner), eps)
    return x


def _modernbert(weights: Weights, settings: dict, x: Tensor, positions: Tensor, mask: Callable) -> Tensor:
    eps, heads = 1e-5, settings["num_attention_heads"]
    x = _norm(weights, "embeddings.norm", x, eps)
    for i in range(settings["num_hidden_layers"]):
        name = f"layers.{i}"
        everywhere = i % settings["global_attn_every_n_layers"] == 0
        theta = 160000.0 if everywhere else 10000.0
        window = None if everywhere else settings["local_attention"] // 2
        normed = x if i == 0 else _norm(weights, f"{name}.attn_norm", x, eps)
        qkv = _linear(weights, f"{name}.attn.Wqkv", normed).reshape(len(x), 3, heads, -1)
        q, k, v = _rotate(qkv[:, 0], positions, theta), _rotate(qkv[:, 1], positions, theta), qkv[:, 2]
        x = x + _linear(weights, f"{name}.attn.Wo", _attend(q, k, v, mask(i, window)))
        value, gating = _linear(weights, f"{name}.mlp.Wi", _norm(weights, f"{name}.mlp_norm", x, eps)).chunk(2, dim=1)
        x = x + _linear(weights, f"{name}.mlp.Wo", gelu(value) * gating)
    return _norm(weights, "final_norm", x, eps)
