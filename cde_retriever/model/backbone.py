"""Build the bidirectional encoders of both stages: native `transformers` models, no remote code."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from cde_retriever.errors import ConfigError
from cde_retriever.model.static import STATIC, StaticEncoder

ENCODER_HALVES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
TOKEN_EMBEDDING_OFFSETS = ("position_embeddings", "token_type_embeddings")


def build_backbone(settings: Mapping[str, Any], attention: str | None = "sdpa") -> PreTrainedModel:
    """Build an encoder with random weights, without dropout (paper, section 4.2).

    Args:
        settings: The encoder's configuration as `transformers` writes it, ``model_type`` included.
        attention: Name of the attention function; None for a plain encoder, which computes attention as it likes and
            may see its text from left to right.

    Raises:
        ConfigError: for an unknown model type, or one without pluggable attention where that is needed.
    """
    settings = dict(settings)
    model_type = settings.pop("model_type")
    if model_type == STATIC:
        return StaticEncoder(**settings)  # type: ignore[return-value]  # it has what is used of one
    try:
        config = AutoConfig.for_model(model_type, **settings)
        for name in [name for name, value in config.to_dict().items() if "dropout" in name and value]:
            setattr(config, name, 0.0)
        model = _build(config, attention)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot build a backbone of model_type {model_type!r}: {error!s:.200}") from error
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if attention is not None and (causal or not getattr(model, "_supports_attention_backend", False)):
        raise ConfigError(
            f"model_type {model_type!r} is no bidirectional encoder with pluggable attention; "
            "use for example bert, nomic_bert or modernbert, or context_attention 'late'"
        )
    return without_pooler(model)


def _build(config: PreTrainedConfig, attention: str | None) -> PreTrainedModel:
    implementation = {} if attention is None else {"attn_implementation": attention}
    if config.model_type in ENCODER_HALVES:
        config.is_encoder_decoder = False
        return encoder_class(config.model_type)._from_config(config, **implementation)  # type: ignore[no-any-return]
    return AutoModel.from_config(config, **implementation)  # type: ignore[no-untyped-call,no-any-return]


def encoder_class(model_type: str) -> Any:
    """Return the class of `transformers` that makes an encoder of a kind: the encoder half of T5 and its kin."""
    return getattr(transformers, ENCODER_HALVES[model_type]) if model_type in ENCODER_HALVES else AutoModel


def without_pooler(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder without its pooler, which nothing here reads and every checkpoint would have to store."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]
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
    offset = torch.zeros(backbone.config.hidden_size, device=backbone.device)
    for name in TOKEN_EMBEDDING_OFFSETS:
        table = getattr(embeddings, name, None)
        if table is not None:
            offset = offset + table.weight[0].detach()
    return offset
