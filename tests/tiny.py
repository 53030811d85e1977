"""Tiny random two-stage models of every family, for tests; nothing is claimed about their quality."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.model.backbone import build_backbone
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.two_stage import TwoStageModel

WORDS = [
    a + b for a in ("ba", "ko", "mi", "lu", "ze", "ra", "ti", "no") for b in ("ron", "lak", "sim", "dor", "vex", "tul")
]
FAMILIES = ("bert", "nomic_bert", "modernbert")
HEADED: dict[str, Any] = {
    "context_attention": "late",
    "context_moments": False,
    "share_backbone": True,
    "corpus_head": {},
}
"""Settings of a model with a corpus head."""


def documents(count: int, seed: int = 0, words: int = 12) -> list[str]:
    """Return distinct documents of made-up words."""
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(1, words))) for i in range(count)]


def tiny_tokenizer() -> Tokenizer:
    """Build a WordPiece tokenizer of characters and made-up words; the same one in every process."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *("##" + c for c in characters), *WORDS]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def tiny_backbone(family: str, vocab_size: int, hidden_size: int = 32) -> dict[str, Any]:
    """Return the configuration of a tiny backbone; ModernBERT's has a window of 8 in one layer of three."""
    settings: dict[str, Any] = {
        "model_type": family,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if family == "modernbert":
        settings |= {"local_attention": 8, "global_attn_every_n_layers": 2, "bos_token_id": 2, "eos_token_id": 3}
        settings |= {"cls_token_id": 2, "sep_token_id": 3}
    return settings


def tiny_encoder(
    family: str = "bert",
    *,
    seed: int = 0,
    first_stage: dict[str, Any] | None = None,
    second_stage: dict[str, Any] | None = None,
    **config: Any,
) -> ContextualEncoder:
    """Build an encoder with random weights; what a plain encoder does not have is not at its start either."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    backbone = second_stage or tiny_backbone(family, tokenizer.get_vocab_size())
    defaults = {"name": f"tiny-{family}", "context_size": 16, "max_length": 64, "prompt_tokens": 2}
    if config.get("context_attention") == "late":
        defaults |= {"prompt_tokens": 0, "context_projection": False}
    settings = ModelConfig(second_stage=backbone, first_stage=first_stage or backbone, **(defaults | config))
    model = TwoStageModel(settings)
    with torch.no_grad():
        second = model.second_stage
        if settings.context_attention == "late":
            if settings.context_moments:
                head = second.moment_head
                head.amount.fill_(0.7)
                head.amount_direction.normal_(std=2.0)
                head.power.fill_(0.5)
            if settings.term_statistics:
                for parameter in second.term_head.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
                second.term_head.log_prior.copy_(torch.linspace(-6, -0.5, len(second.term_head.log_prior)))
        else:
            second.null_context.normal_()
            second.prompt.normal_()
        if hasattr(second, "gate"):
            second.gate.normal_().add_(2)
        if settings.context_projection:
            second.context_projection.weight.normal_(std=0.5)
            second.context_projection.bias.normal_()
    return ContextualEncoder.from_model(model, tokenizer)


def headed_encoder(**head: Any) -> ContextualEncoder:
    """Build an encoder with a corpus head, given some of its settings; with topics or directions as in version 2."""
    version_2 = {"query_noise": 0.0, "query_neighbours": 0, "word_scale": 0.0}
    before = version_2 if {"topics", "sketch", "directions"} & set(head) else {}
    return tiny_encoder(**{**HEADED, "corpus_head": before | head})


def tiny_checkpoint(folder: Path, family: str = "bert", **config: Any) -> Path:
    """Write a tiny checkpoint and return its folder."""
    return tiny_encoder(family, **config).save_pretrained(folder)


def small_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of one layer, for tests that embed thousands of times, and return its folder."""
    backbone = tiny_backbone("bert", tiny_tokenizer().get_vocab_size()) | {"num_hidden_layers": 1}
    return tiny_checkpoint(folder, second_stage=backbone)


def plain_encoder(folder: Path, family: str = "bert") -> Path:
    """Write a tiny plain encoder as `transformers` does."""
    torch.manual_seed(0)
    settings = tiny_backbone(family, tiny_tokenizer().get_vocab_size())
    AutoModel.from_config(AutoConfig.for_model(**settings)).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def plain_vectors(encoder: ContextualEncoder, texts: list[str]) -> NDArray[np.float64]:
    """Embed texts one by one with the second stage's backbone alone, eagerly and without padding."""
    plain = build_backbone(dict(encoder.config.second_stage), "eager").eval()
    plain.load_state_dict(encoder.open_model().second_stage.backbone.state_dict())
    rows = []
    with torch.no_grad():
        for ids in encoder.tokenize(texts, "document").ids:
            pooled = plain(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
            rows.append((pooled / pooled.norm()).numpy())
    return np.stack(rows).astype(np.float64)
