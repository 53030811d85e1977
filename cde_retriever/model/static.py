"""Look token vectors up in a table: the whole encoder of static embeddings (StaticEmbedding, model2vec)."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

STATIC = "static"
"""The ``model_type`` in a configuration."""


class StaticEncoder(nn.Module):
    """A table of token vectors in the place of an encoder.

    Args:
        vocab_size: Number of tokens, V.
        hidden_size: Width of the vectors, d.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            model_type=STATIC, vocab_size=vocab_size, hidden_size=hidden_size, pad_token_id=0, _attn_implementation=None
        )
        self.embedding = nn.Embedding(vocab_size, hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the table."""
        return self.embedding.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        """Return the table."""
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:  # noqa: ARG002
        """Return the tokens' vectors, (b, s, d)."""
        return BaseModelOutput(last_hidden_state=self.embedding(input_ids))
