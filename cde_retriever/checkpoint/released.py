"""Read the authors' own checkpoints, cde-small-v1 and -v2, into a native `joint` model; none of their code is run.

Their files leave open which network was trained and which one is published (docs/released.md), so a variant is part of
the model's identity. What follows in the names: `source` is theirs, `native` ours.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers.initialization import no_init_weights

from cde_retriever.checkpoint.checkpoint import Checkpoint
from cde_retriever.checkpoint.folder import TOKENIZER_NAME, WEIGHTS_NAME, read_tokenizer
from cde_retriever.checkpoint.hub import download_file
from cde_retriever.checkpoint.kinds import read_json
from cde_retriever.checkpoint.low_rank import refuse_misfits
from cde_retriever.checkpoint.reading import Reading, identify_source
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.two_stage import TwoStageModel

NOMIC, MODERN = "nomic-ai/nomic-bert-2048", "answerdotai/ModernBERT-base"
BACKBONES: dict[str, dict[str, Any]] = {
    NOMIC: {
        "model_type": "nomic_bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 30528, "layer_norm_eps": 1e-12, "type_vocab_size": 2,
        "pad_token_id": 0, "max_position_embeddings": 2048,
    },
    MODERN: {
        "model_type": "modernbert", "hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
        "intermediate_size": 1152, "vocab_size": 50368, "pad_token_id": 50283, "max_position_embeddings": 8192,
    },
}  # fmt: skip
"""What a configuration says by name alone."""
TOKENIZERS = {NOMIC: "google-bert/bert-base-uncased", MODERN: MODERN}
PROMPTS = {"query": "search_query: ", "document": "search_document: "}
PROMPT_TOKENS = 8
WANTED: dict[str, Any] = {
    "architecture": "transductive",
    "dataset_backbone": None,
    "transductive_tokens_per_document": 1,
    "limit_layers": None,
    "limit_layers_first_stage": None,
    "embedding_output_dim": None,
    "autoregressive_backbone": False,
    "pooling_strategy": "mean",
    "transductive_tie_token_embeddings": False,
    "disable_transductive_rotary_embedding": True,
    "pool_ignore_contextual_tokens": True,
}
"""What a configuration may say, at this value only; a name may also begin with contextual_."""
IGNORED = re.compile(r"\.input_ln\.|\.pooler\.|\.inv_freq$|\.norm_factor$")
NULL = "second_stage_model.sequence_dropout_null_embedding"
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Variant:
    """One of the networks that the released weights may belong to.

    Attributes:
        about: What it is.
        residual: Whether the pooled vector is added to the output head's.
        whole_text: Whether the prompt's tokens are pooled.
        norms: How often words pass ModernBERT's embedding norm: ``"words"``, once, before context joins them;
            ``"twice"``, again together with the context; ``"once"``, together with it alone. None for NomicBERT.
    """

    about: str
    residual: bool
    whole_text: bool
    norms: str | None = None


VARIANTS: dict[str, dict[str, Variant]] = {
    NOMIC: {
        "trained": Variant("the layout of the training code", False, True),
        "residual": Variant("the same with a residual, which later training code has", True, True),
    },
    MODERN: {
        "published": Variant("what the code in the Hub repository computes", False, True, "twice"),
        "trained": Variant("most likely what was trained", True, False, "words"),
        "github": Variant("the training code on released versions of transformers", True, False, "twice"),
    },
}
"""By backbone; the first is taken, with a warning where there is doubt, if nobody names one."""


def read_released(folder: Path, reading: Reading, name: str) -> Checkpoint:
    """Read a released checkpoint strictly.

    Args:
        folder: Its ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        reading: The variant may be said, nothing else.
        name: Its name, for people.

    Raises:
        CheckpointError: if a file or tensor is missing, of another shape or unexpected, or the configuration is of a
            network that is not understood; names it.
        ConfigError: for an unknown variant, or if something else is said.
    """
    said = read_json(folder / "config.json")
    variant = _choose(refuse_others(folder, said), reading, name)
    model, tokenizer = build_variant(folder, variant, name)
    identity = identify_source(folder, reading)
    if not (folder / TOKENIZER_NAME).is_file():
        identity = hashlib.sha256(f"{identity} {tokenizer.to_str()}".encode()).hexdigest()
    return Checkpoint(model, tokenizer, identity, torch.float32, identity)


def build_variant(
    folder: Path, variant: Variant, name: str, prompts: Mapping[str, str] = PROMPTS
) -> tuple[TwoStageModel, Tokenizer]:
    """Return one of the networks of a released checkpoint, and the tokenizer.

    Args:
        folder: The checkpoint.
        variant: The network.
        name: The model's name.
        prompts: Text put before queries and documents.

    Raises:
        CheckpointError: if a file or tensor is missing, of another shape or unexpected; names it.
    """
    said = read_json(folder / "config.json")
    tokenizer = read_tokenizer(_find_tokenizer(folder, said["embedder"]))
    try:
        source = {key: tensor.float() for key, tensor in load_file(folder / WEIGHTS_NAME).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS_NAME}: {error}") from error
    colon = tokenizer.encode(": ", add_special_tokens=False).ids[0]
    config = replace(configure(said, variant, name, null=NULL in source, colon=colon), prompts=prompts)
    with no_init_weights():
        model = TwoStageModel(config)
    native = convert(source, config, normalise_words=variant.norms != "once")
    refuse_misfits(native, {key: tuple(t.shape) for key, t in model.stored_state().items()}, source=str(folder))
    model.load_state_dict(native, strict=False)
    return model.eval(), tokenizer


def refuse_others(folder: Path, said: dict[str, Any]) -> str:
    """Refuse configurations of other networks, and return the backbone's name."""
    for key, value in WANTED.items():
        other = key.replace("transductive_", "contextual_")
        found = said.get(key, said.get(other, value))
        if found != value:
            raise CheckpointError(f"{folder / 'config.json'} says {key} {found!r}; understood is {value!r} alone")
    embedder = str(said.get("embedder"))
    if embedder not in BACKBONES:
        raise CheckpointError(
            f"{folder / 'config.json'} says embedder {embedder!r}; understood are {' and '.join(BACKBONES)}"
        )
    return embedder


def _find_tokenizer(folder: Path, embedder: str) -> Path:
    """Return a released checkpoint's tokenizer; early revisions lack it, and their backbone's own stands in."""
    if (folder / TOKENIZER_NAME).is_file():
        return folder / TOKENIZER_NAME
    source = TOKENIZERS[embedder]
    try:
        found = download_file(source, TOKENIZER_NAME)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} has no {TOKENIZER_NAME}; put that of {source} there ({error})") from error
    warnings.warn(f"{folder} has no {TOKENIZER_NAME}; that of {source}, its backbone's, is used", stacklevel=2)
    return found


def _choose(embedder: str, reading: Reading, name: str) -> Variant:
    if replace(reading, variant=None, head=True) != Reading():
        raise ConfigError(f"{name} has pooling, lengths and prompts that cannot be changed; leave them out")
    variants = VARIANTS[embedder]
    if reading.variant is None:
        first, *others = variants
        if embedder == MODERN:
            warnings.warn(
                f"{name} is computed as its published code does (variant={first!r}), which is most likely not the "
                f"network that was trained; {', '.join(map(repr, others))} are the others, and vectors of one do not "
                "compare with those of another",
                stacklevel=2,
            )
        return variants[first]
    if reading.variant not in variants:
        raise ConfigError(f"variant is {reading.variant!r}, {name} has {', '.join(map(repr, variants))}")
    return variants[reading.variant]


def configure(said: dict[str, Any], variant: Variant, name: str, *, null: bool, colon: int) -> ModelConfig:
    """Return the native configuration of a released one.

    Args:
        said: What ``config.json`` says.
        variant: The network to compute.
        name: The model's name.
        null: Whether there is a vector for no context.
        colon: Id of the token that ends a prompt.
    """
    backbone = BACKBONES[said["embedder"]]
    nomic = said["embedder"] == NOMIC
    return ModelConfig(
        name=name,
        first_stage=backbone,
        second_stage=backbone,
        context_attention="joint",
        context_size=int(said.get("transductive_corpus_size", said.get("contextual_corpus_size", 512))),
        prompt_tokens=PROMPT_TOKENS,
        positions="prompt_and_text" if nomic else "sequence",
        context_projection=nomic,
        normalize_first_stage=False,
        first_stage_head="mlp",
        output_head="residual_mlp" if variant.residual else "mlp",
        output_activation="relu",
        embedding_norm=variant.norms != "words",
        pool_after_token=None if variant.whole_text else colon,
        null_context="repeated" if null else "none",
        max_length=int(said.get("max_seq_length", 512)),
        prompts=PROMPTS,
    )


def convert(source: dict[str, Tensor], config: ModelConfig, *, normalise_words: bool = True) -> dict[str, Tensor]:
    """Return the native tensors of released ones.

    NomicBERT adds the token-type vector to all that enters it, and the trained network to words alone, so context,
    prompt and null vector enter without it. Of ModernBERT's second stage the words pass the embedding norm before
    context joins them, so its table is normalised here.
    """
    native: dict[str, Tensor] = {}
    for key, tensor in source.items():
        if not IGNORED.search(key) and "prompt_projection" not in key:
            native.update(_renamed(key, tensor))
    prompt = _soft_prompt(source)
    if config.context_projection:
        offset = native["second_stage.backbone.embeddings.token_type_embeddings.weight"][0]
        prompt = prompt - offset
        native["second_stage.context_projection.weight"] = torch.eye(len(offset))
        native["second_stage.context_projection.bias"] = -offset
        if NULL in source:
            native["second_stage.null_context"] -= offset
    elif normalise_words:
        table = "second_stage.backbone.embeddings.tok_embeddings.weight"
        norm = native["second_stage.backbone.embeddings.norm.weight"]
        native[table] = torch.nn.functional.layer_norm(native[table], norm.shape, norm, None, LAYER_NORM_EPS)
    if not config.embedding_norm:
        del native["second_stage.backbone.embeddings.norm.weight"]
    native["second_stage.prompt"] = prompt
    return native


RENAMED = (
    ("first_stage_model.embedder.", "first_stage.backbone."),
    ("second_stage_model.backbone.", "second_stage.backbone."),
    ("first_stage_model.mlp.", "first_stage.mlp."),
    ("second_stage_model.output_projection.", "second_stage.output_head.mlp."),
    (NULL, "second_stage.null_context"),
    (".emb_ln.", ".embeddings.LayerNorm."),
    (".encoder.layers.", ".layers."),
    (".attn.out_proj.", ".self_attn.o_proj."),
    (".mlp.fc11.", ".mlp.up_proj."),
    (".mlp.fc12.", ".mlp.gate_proj."),
    (".mlp.fc2.", ".mlp.down_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
)


def _renamed(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what a tensor is called here; NomicBERT's joint product of attention becomes three."""
    name = key
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    if ".encoder.layers." in key and name.endswith(".attn.Wqkv.weight"):
        start = name.removesuffix("attn.Wqkv.weight")
        return {f"{start}self_attn.{part}_proj.weight": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
    return {name: tensor[None].clone() if key == NULL else tensor}


def _soft_prompt(source: dict[str, Tensor]) -> Tensor:
    """Return the eight prompt tokens, (8, d), which are the same for every text."""
    try:
        first, bias, second, shift = (
            source[f"second_stage_model.prompt_projection.{name}"]
            for name in ("0.weight", "0.bias", "2.weight", "2.bias")
        )
    except KeyError as error:
        raise CheckpointError(f"the released checkpoint lacks {error.args[0]}; copy it again") from error
    hidden = torch.relu(first @ torch.ones(first.shape[1]) + bias)
    return (second @ hidden + shift).view(PROMPT_TOKENS, -1)
