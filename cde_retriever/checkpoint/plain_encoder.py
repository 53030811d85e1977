"""Read an encoder and its tokenizer as `transformers` saves them, strictly: no weight is made up, no code is run."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from cde_retriever.checkpoint.folder import TOKENIZER_NAME, read_tokenizer
from cde_retriever.checkpoint.kinds import read_json, refuse_architecture, weight_files
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model.backbone import ENCODER_HALVES, encoder_class, without_pooler
from cde_retriever.model.config import ROLES
from cde_retriever.model.static import StaticEncoder

UNREAD = re.compile(
    r"(^|\.)(pooler|cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|discriminator_predictions"
    r"|generator_predictions|generator_lm_head|decoder|head|predictions|classifier)\.|position_ids$|inv_freq$"
)
"""Weights beside an encoder that play no part in its token vectors."""
NOT_STORED = ("architectures", "dtype", "torch_dtype", "transformers_version", "auto_map", "id2label", "label2id")
OLD_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
}
"""What NomicBERT's first configurations call things; `transformers` takes no notice of them."""
AS_NATIVE = {
    "activation_function": "swiglu",
    "rotary_emb_fraction": 1.0,
    "rotary_emb_base": 1000,
    "rotary_scaling_factor": None,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "prenorm": False,
    "parallel_block": False,
    "use_rms_norm": False,
    "causal": False,
}
"""What those configurations may say only in this way, because native NomicBERT is nothing else."""
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")
UNLIMITED = 10**6


@dataclass(kw_only=True)
class PlainEncoder:
    """An encoder of one vector a text, all that decides that vector.

    Attributes:
        backbone: What gives token vectors.
        settings: Its configuration, as a checkpoint stores it.
        tokenizer: Its tokenizer, without prompts.
        max_length: Longest text it says it reads, in tokens.
        longest: Longest text it can read.
        prompts: Text put before a query and before a document.
        pooling: Ways of pooling; empty until it is known.
        pool_prompt: Whether prompts are pooled too.
        projection: Layers after pooling.
        weights: Their tensors, by the names of `cde_retriever.model.projection.Projection`.
        queries: The encoder of queries, where it is another than that of documents.
        keeps_lengths: Whether it compares by inner product, so that lengths of vectors matter.
    """

    backbone: PreTrainedModel | StaticEncoder
    settings: dict[str, Any]
    tokenizer: Tokenizer
    max_length: int
    longest: int
    prompts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(ROLES, ""))
    pooling: tuple[str, ...] = ()
    pool_prompt: bool = True
    projection: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    queries: "PlainEncoder | None" = None
    keeps_lengths: bool = False


def read_backbone(folder: Path) -> PreTrainedModel:
    """Read an encoder in float32, whatever precision it is stored in.

    Raises:
        CheckpointError: for a network that is not understood, weights that are missing, of another shape, quantised, or
            more than the native network has; names some.
    """
    config = read_json(folder / "config.json")
    if not config:
        raise CheckpointError(f"{folder} has no config.json, which says what its weights are of; copy the whole model")
    refuse_architecture(folder, config)
    for file in weight_files(folder):
        _refuse_integers(file)
    kind = config["model_type"]
    try:
        with _silence():
            model, found = encoder_class(kind).from_pretrained(
                folder,
                config=_configuration(folder, config),
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_refuse_misfits` names them
                # Masked language models name their weights bert.…, and transformers knows it of BERT alone.
                key_mapping={r"^bert\.": ""},
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, ImportError) as error:
        raise CheckpointError(f"cannot read the encoder {folder}: {' '.join(str(error).split())[:300]}") from error
    _refuse_misfits(folder, kind, found)
    return without_pooler(model.eval())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep `transformers` from reporting weights that play no part, and from drawing a bar."""
    said, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(said)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _configuration(folder: Path, config: dict[str, Any]) -> PreTrainedConfig:
    if config["model_type"] == "nomic_bert" and "n_embd" in config:
        for name, value in AS_NATIVE.items():
            if config.get(name, value) != value:
                raise CheckpointError(
                    f"{folder / 'config.json'} says {name} {config[name]!r}; "
                    f"the NomicBERT of transformers has {value!r}"
                )
        config = {**config, **{new: config[old] for old, new in OLD_NAMES.items() if old in config}}
        made: PreTrainedConfig = AutoConfig.for_model(**config)
    else:
        made = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config["model_type"] in ENCODER_HALVES:
        made.is_encoder_decoder = False
    return made


def _refuse_integers(file: Path) -> None:
    """Refuse weights that are no floats."""
    try:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                dtype = tensors.get_slice(name).get_dtype()
                if not dtype.startswith(("F16", "F32", "F64", "BF16")) and not name.endswith("_ids"):
                    raise CheckpointError(
                        f"{file} holds {name} in {dtype}; expected float weights (dtype='int8' with backend='onnx' or "
                        "'openvino' makes 8-bit ones)"
                    )
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy it again, of a clone with git lfs pull") from error


def _refuse_misfits(folder: Path, kind: str, found: dict[str, Any]) -> None:
    for name, stored, expected in sorted(found["mismatched_keys"]):
        if not UNREAD.search(name):
            raise CheckpointError(
                f"{folder} holds {name} of shape {tuple(stored)}, but its config.json says {tuple(expected)}; restore "
                "the configuration and the weights that belong together"
            )
    missing = sorted(key for key in found["missing_keys"] if not UNREAD.search(key))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of its {kind} encoder, such as {missing[0]}; is it the whole "
            "checkpoint, under the names transformers uses?"
        )
    more = sorted(key for key in found["unexpected_keys"] if not UNREAD.search(key))
    if more:
        raise CheckpointError(
            f"{folder} holds {len(more)} weights that a {kind} encoder does not have, such as {more[0]}: it is another "
            "network, which needs code of its own, and that is never run here"
        )


def backbone_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return an encoder's configuration as a checkpoint stores it."""
    config = model.config
    settings = {name: value for name, value in config.to_diff_dict().items() if name not in NOT_STORED}
    settings |= {"model_type": config.model_type, "hidden_size": config.hidden_size}
    if config.pad_token_id:
        settings["pad_token_id"] = config.pad_token_id
    return settings


def read_texts_tokenizer(folder: Path) -> tuple[Tokenizer, int]:
    """Return an encoder's tokenizer, and the most tokens it says it gives.

    Raises:
        CheckpointError: if there is none, or none of the `tokenizers` library.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        # transformers would make up an empty one
        raise CheckpointError(f"{folder} has no tokenizer; expected one of {', '.join(VOCABULARIES)}")
    if not (folder / "tokenizer_config.json").is_file() and (folder / TOKENIZER_NAME).is_file():
        return read_tokenizer(folder / TOKENIZER_NAME), UNLIMITED
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # what a damaged file raises is the library's choice, bare Exception among it
        said = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"cannot read the tokenizer in {folder} ({said}); copy its tokenizer files again, from the same model"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise CheckpointError(
            f"the tokenizer in {folder} is a {type(tokenizer).__name__}, which has no fast form; convert it to a "
            "tokenizer.json"
        )
    return Tokenizer.from_str(backend.to_str()), int(min(tokenizer.model_max_length, UNLIMITED))


def table_rows(model: PreTrainedModel) -> int:
    """Return for how many tokens an encoder has vectors."""
    table: Any = model.get_input_embeddings()
    return len(table.weight)


def longest_text(model: PreTrainedModel) -> int:
    """Return how many tokens an encoder's positions reach; `UNLIMITED` where nothing bounds them."""
    places = getattr(model.config, "max_position_embeddings", None)
    if places is None:
        return UNLIMITED
    # RoBERTa's kin count positions from the one after the padding's.
    counted = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return int(places) if counted is None else int(places) - int(counted) - 1


def refuse_length(folder: Path, wanted: int | None, longest: int) -> None:
    """Refuse a length that an encoder cannot read.

    Raises:
        ConfigError: with both numbers.
    """
    if wanted is not None and wanted > longest:
        raise ConfigError(f"max_length is {wanted}, but {folder} reads {longest} tokens at most")
