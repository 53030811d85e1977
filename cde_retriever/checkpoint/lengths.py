"""Give an encoder that compares by inner product unit vectors that still know their length."""

import math

import torch

from cde_retriever.checkpoint.plain_encoder import PlainEncoder
from cde_retriever.model.pooling import pool
from cde_retriever.model.projection import Projection

SAMPLES = (
    "What is the capital of France?",
    "reset password",
    "Paris is the capital and largest city of France, on the river Seine, with two million people in its city limits.",
    "The function returns the number of items, or raises an error if the argument is negative. " * 8,
)
"""Texts whose vectors' lengths tell a scale."""
ROOM = 1.5
"""How much longer than theirs a vector may be."""


@torch.no_grad()
def keep_lengths(plain: PlainEncoder) -> None:
    """Add the layer that keeps lengths, scaled by a power of two above what sample texts have.

    A power of two, because two machines must agree on it; longer vectors are shortened to it.
    """
    layers = Projection(plain.projection)
    layers.load_state_dict(plain.weights)
    longest = 0.0
    for text in SAMPLES:
        ids = torch.tensor([plain.tokenizer.encode(text).ids[: plain.max_length]])
        hidden = plain.backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        vectors = layers(pool(hidden, torch.ones_like(ids), plain.pooling))
        longest = max(longest, float(vectors.norm()))
    scale = 2.0 ** math.ceil(math.log2(ROOM * max(longest, 1e-6)))
    plain.projection.append({"kind": "lengths", "outputs": vectors.shape[1] + 1, "longest": scale})
