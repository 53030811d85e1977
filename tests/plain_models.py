"""Tiny random sentence-transformers models of every family, tokenizer and module, saved by sentence-transformers."""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, T5EncoderModel

from tests.tiny import WORDS, tiny_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 66, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "camembert": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "distilbert": {"hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 2},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "use_bidirectional_attention": True},
    "gte": {},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "mpnet": {},
    "mt5": {"d_kv": 8, "d_ff": 48},
    "nomic_bert": {},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "roberta": {},
    "t5": {"d_kv": 8, "d_ff": 48},
    "umt5": {"d_kv": 8, "d_ff": 48},
    "xlm-roberta": {},
}
PAD_ONE = {"camembert", "mpnet", "roberta", "xlm-roberta"}
TEXTS = ["baron kolak misim", "Kolak ludor, zevex! 12", "x", " ".join(WORDS * 3), "ratul tiron " * 9]
PROMPTS = {"query": "ask baron: ", "document": "tell: "}


def byte_pairs(pad: int = 0) -> Tokenizer:
    """Build a byte-level BPE tokenizer with one merge a word's first letters."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>"] if pad == 0 else ["<s>", "<pad>"]
    pieces = [*special, "</s>", "<unk>", *characters, "ba", "ko", "mi", "Ġba"]
    merges = [("b", "a"), ("k", "o"), ("m", "i"), ("Ġ", "ba")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_ends(tokenizer, special.index("<s>"), 2)


def sentence_pieces(pad: int = 0) -> Tokenizer:
    """Build a Unigram tokenizer over words with SentencePiece's space mark."""
    special = ["<pad>", "<s>"] if pad == 0 else ["<s>", "<pad>"]
    pieces = [*special, "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz0123456789:"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _with_ends(tokenizer, special.index("<s>"), 2)


def _with_ends(tokenizer: Tokenizer, first: int, last: int) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", first), ("</s>", last)]
    )
    return tokenizer


TOKENIZERS = {"wordpiece": lambda _pad: tiny_tokenizer(), "bpe": byte_pairs, "unigram": sentence_pieces}


def save_transformer(folder: Path, family: str, tokenizer: str = "wordpiece", **settings: Any) -> Path:
    """Write a tiny random encoder and its tokenizer as `transformers` does."""
    torch.manual_seed(0)
    pad = int(family in PAD_ONE)
    texts = TOKENIZERS[tokenizer](pad)
    config = AutoConfig.for_model(
        family,
        **(SIZES | FAMILIES[family] | {"vocab_size": texts.get_vocab_size() + 3, "pad_token_id": pad} | settings),
    )
    model = (T5EncoderModel._from_config if family in ("t5", "mt5", "umt5") else AutoModel.from_config)(config)
    if family in ("t5", "mt5", "umt5"):
        model.config.architectures = ["T5EncoderModel"]
    model.save_pretrained(folder)
    names = {token: i for token, i in texts.get_vocab().items() if i < 4}
    special = {"[PAD]": "pad_token", "<pad>": "pad_token", "[CLS]": "cls_token", "[SEP]": "sep_token"}
    special |= {"<s>": "bos_token", "</s>": "eos_token", "[UNK]": "unk_token", "<unk>": "unk_token"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=texts, model_max_length=64, **{special[token]: token for token in names}
    )
    fast.save_pretrained(folder)
    return folder


def save_model(
    folder: Path,
    family: str = "bert",
    tokenizer: str = "wordpiece",
    *,
    pooling: Any = "mean",
    include_prompt: bool = True,
    layers: Any = (),
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    **settings: Any,
) -> SentenceTransformer:
    """Write a tiny random sentence-transformers model to a folder, and return it as sentence-transformers reads it."""
    save_transformer(folder / "plain", family, tokenizer, **settings)
    transformer = Transformer(str(folder / "plain"))
    modules = [transformer, Pooling(32, pooling, include_prompt=include_prompt), *layers]
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(folder / "model"))
    return SentenceTransformer(str(folder / "model"), device="cpu")
