"""Write a model under a context as modules that sentence-transformers has itself, where it can express them.

It can where the context moves a plain encoder's vector by its mean m and whitening W alone, which is a linear map and a
normalisation (`cde_retriever.model.moments`):

    y = normalize((z - (a + z·u) m) W) = normalize(z (W - u (m W)ᵀ) - a m W)
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.moments import MomentHead


def can_express(config: ModelConfig) -> bool:
    """Tell whether sentence-transformers has modules for all that a context does in a model."""
    return (
        config.context_attention == "late"
        and config.context_moments
        and not config.term_statistics
        and not config.projection
        and config.output_head == "none"
        and config.query_encoder is None
    )


def own_modules(encoder: ContextualEncoder) -> list[nn.Module]:
    """Return modules that compute what the encoder does under its context.

    Args:
        encoder: An encoder of its own over weights of its own, of a model that `can_express` is true of.

    Raises:
        ContextNotFittedError: if it has no context.
    """
    second, config = encoder.open_model().second_stage, encoder.config
    head: Any = second.moment_head
    context = torch.tensor(encoder.context.vectors, device=head.amount.device)
    with TemporaryDirectory() as folder, torch.no_grad():
        second.backbone.save_pretrained(folder)
        _save_tokenizer(encoder.tokenizer, config, Path(folder))
        transformer = Transformer(folder, max_seq_length=config.max_length)
        width = int(second.backbone.config.hidden_size)
        pooling = Pooling(width, config.pooling, include_prompt=config.pool_prompt)
        moved = _linear(head, *head.moments(context))
    return [transformer, pooling, Normalize(), moved, Normalize()]


def _linear(head: MomentHead, mean: Tensor, whitening: Tensor) -> Dense:
    """Return the map of the formula above."""
    width = len(mean)
    direction = head.amount_direction / math.sqrt(width)
    moved = mean @ whitening
    weight = (whitening - torch.outer(direction, moved)).T.contiguous()
    return Dense(
        width, width, activation_function=None, init_weight=weight, init_bias=(-head.amount * moved).contiguous()
    )


def _save_tokenizer(tokenizer: Tokenizer, config: ModelConfig, folder: Path) -> None:
    """Write a tokenizer as `transformers` reads it."""
    padding = tokenizer.id_to_token(int(config.second_stage.get("pad_token_id") or 0))
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=padding,
        model_max_length=config.max_length,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
