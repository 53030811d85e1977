"""The bidirectional encoders both stages are built from: native `transformers` models, no remote code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from cde_retriever.errors import ConfigError

TOKEN_EMBEDDING_OFFSETS = ("position_embeddings", "token_type_embeddings")


def build_backbone(settings: Mapping[str, Any], attention: str = "sdpa") -> PreTrainedModel:
    """Build an encoder with random weights, without dropout (paper, section 4.2).

    Args:
        settings: The encoder's configuration as `transformers` writes it, ``model_type`` included.
        attention: Name of the attention function.

    Raises:
        ConfigError: for an unknown or decoder-only model type, or one without pluggable attention.
    """
    settings = dict(settings)
    model_type = settings.pop("model_type")
    try:
        config = AutoConfig.for_model(model_type, **settings)
        for name in [name for name, value in config.to_dict().items() if "dropout" in name and value]:
            setattr(config, name, 0.0)
        model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=attention)  # type: ignore[no-untyped-call]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"cannot build a backbone of model_type {model_type!r}: {error!s:.200}") from error
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if causal or not getattr(model, "_supports_attention_backend", False):
        raise ConfigError(
            f"model_type {model_type!r} is no bidirectional encoder with pluggable attention; "
            "use for example bert, nomic_bert or modernbert"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]  # mean pooling is ours; a pooler would be dead weight in every checkpoint
    return model


def embed_tokens(backbone: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Return the word vectors of token ids, (b, s, d), before positions, token types and normalisation."""
    embeddings: nn.Module = backbone.get_input_embeddings()
    output: Tensor = embeddings(input_ids)
    return output


def input_offset(backbone: PreTrainedModel) -> Tensor:
    """Return what the backbone adds to an input vector at position 0, (d,).

    BERT adds a position and a token-type vector, NomicBERT a token-type vector, ModernBERT nothing. In BERT the
    vector of position 0 marks ``[CLS]`` and is longer than most words, so a context document must enter without it.
    """
    embeddings = backbone.embeddings
    offset = torch.zeros(backbone.config.hidden_size)
    for name in TOKEN_EMBEDDING_OFFSETS:
        table = getattr(embeddings, name, None)
        if table is not None:
            offset = offset + table.weight[0].detach()
    return offset
