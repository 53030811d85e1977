"""Read a sentence-transformers model as sentence-transformers does; refuse by name what is not understood."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers

from cde_retriever.checkpoint.folder import read_tokenizer
from cde_retriever.checkpoint.kinds import (
    MODULES_NAME,
    SENTENCE_TRANSFORMERS,
    ST_CONFIG_NAME,
    kind_of,
    read_json,
    weight_files,
)
from cde_retriever.checkpoint.plain_encoder import (
    UNLIMITED,
    PlainEncoder,
    backbone_settings,
    longest_text,
    read_backbone,
    read_texts_tokenizer,
    refuse_length,
    table_rows,
)
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.checkpoint.routes import ROUTERS, modules_of
from cde_retriever.checkpoint.sizes import refuse_unknown_ids
from cde_retriever.errors import CDEError, CheckpointError, ConfigError
from cde_retriever.model.config import POOLINGS, ROLES
from cde_retriever.model.projection import ACTIVATIONS
from cde_retriever.model.static import STATIC, StaticEncoder

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TRANSFORMER_KEYS = {"max_seq_length", "do_lower_case", "modality_config", "module_output_name", "transformer_task"}
POOLING_KEYS = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"}
OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
STATIC_LENGTH = 8192
"""Longest text of static embeddings, which read any."""


def read_plain_encoder(folder: Path, reading: Reading) -> PlainEncoder:
    """Read a sentence-transformers model, or an encoder of `transformers` for which the user says the pooling.

    Raises:
        CheckpointError: if something is missing, damaged or not understood; names it.
        ConfigError: if the user's pooling, prompts or maximum length do not go with the encoder.
    """
    if kind_of(folder) == SENTENCE_TRANSFORMERS:
        with _naming_damage(folder):
            plain = _read_modules(folder)
        if reading.pooling is not None and plain.pooling != (reading.pooling,):
            raise ConfigError(
                f"{folder} says itself how it pools ({', '.join(plain.pooling)}), received pooling "
                f"{reading.pooling!r}; leave pooling out"
            )
    else:
        if reading.pooling is None:
            raise ConfigError(
                f"{folder} does not say how its token vectors become one; give pooling=, one of {', '.join(POOLINGS)}"
            )
        with _naming_damage(folder):
            plain = _read_transformer(folder)
        plain.pooling = (reading.pooling,)
    for route in (plain, plain.queries):
        if route is None:
            continue
        if reading.prompts is not None:
            route.prompts |= reading.prompts
        route.max_length = _length(folder, route, reading.max_length)
    return plain


@contextlib.contextmanager
def _naming_damage(folder: Path) -> Iterator[None]:
    """Turn what a configuration with missing or strange values raises into a sentence."""
    try:
        yield
    except CDEError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"a configuration in {folder} is damaged ({error!r:.200}); copy it again") from error


def _length(folder: Path, plain: PlainEncoder, wanted: int | None) -> int:
    refuse_length(folder, wanted, plain.longest)
    length = min(plain.max_length, plain.longest) if wanted is None else wanted
    if length >= UNLIMITED:
        raise ConfigError(f"{folder} does not say how long a text may be; give max_length=, in tokens")
    return length


def _read_modules(folder: Path) -> PlainEncoder:
    documents, queries = (modules_of(folder, role) for role in ("document", "query"))
    plain = _read_listed(folder, documents)
    if queries != documents:
        plain.queries = _read_listed(folder, queries)
    return plain


def _read_listed(folder: Path, modules: list[tuple[str, Path]]) -> PlainEncoder:
    """Read modules that follow each other."""
    (first, place), *rest = modules
    readers = {"Transformer": _read_transformer, "StaticEmbedding": _read_static}
    if first not in readers:
        raise CheckpointError(f"{folder / MODULES_NAME} begins with {first}, expected {' or '.join(readers)}")
    plain = readers[first](place)
    for name, place in rest:
        if name == "Dropout":
            continue  # nothing outside training
        if name not in _MODULES:
            raise CheckpointError(
                f"{folder / MODULES_NAME} holds {name}, which is not understood; understood are "
                + ", ".join([*readers, *_MODULES, *ROUTERS])
            )
        _MODULES[name](plain, place)
    if not plain.pooling:
        raise CheckpointError(f"{folder / MODULES_NAME} holds no Pooling; nothing says how token vectors become one")
    _read_prompts(folder, plain)
    return plain


def _read_transformer(place: Path) -> PlainEncoder:
    said = next((said for name in TRANSFORMER_CONFIGS if (said := read_json(place / name))), {})
    _refuse_unknown(place, said, TRANSFORMER_KEYS)
    if said.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise CheckpointError(
            f"{place} uses its transformer for {said['transformer_task']}, expected feature-extraction"
        )
    if set(said.get("modality_config", {"text": {}})) != {"text"}:
        raise CheckpointError(
            f"{place} takes {', '.join(said['modality_config'])}; only plain text is read here, without chat templates"
        )
    backbone = read_backbone(place)
    tokenizer, most = read_texts_tokenizer(place)
    refuse_unknown_ids(tokenizer, table_rows(backbone), place)
    if said.get("do_lower_case"):
        _lower(tokenizer)
    positions = getattr(backbone.config, "max_position_embeddings", None) or UNLIMITED
    return PlainEncoder(
        backbone=backbone,
        settings=backbone_settings(backbone),
        tokenizer=tokenizer,
        max_length=int(said.get("max_seq_length") or min(most, positions)),
        longest=longest_text(backbone),
    )


def _lower(tokenizer: Tokenizer) -> None:
    there = tokenizer.normalizer
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([] if there is None else [there])])


def _read_static(place: Path) -> PlainEncoder:
    tensors = load_file(weight_files(place)[0])
    table = tensors.get("embedding.weight", tensors.get("embeddings"))
    if table is None or set(tensors) - {"embedding.weight", "embeddings", "mapping", "weights"}:
        raise CheckpointError(f"{place} holds {', '.join(sorted(tensors))}; expected embedding.weight or embeddings")
    table = table.float()
    if "mapping" in tensors:
        table = table[tensors["mapping"].long()]
    if "weights" in tensors:
        table = table * tensors["weights"].float()[:, None]
    tokenizer = read_tokenizer(place / "tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    refuse_unknown_ids(tokenizer, len(table), place)
    backbone = StaticEncoder(*table.shape)
    backbone.embedding.weight.data = table
    settings = {"model_type": STATIC, "vocab_size": table.shape[0], "hidden_size": table.shape[1]}
    return PlainEncoder(
        backbone=backbone,
        settings=settings,
        tokenizer=_without_special_tokens(tokenizer),
        max_length=STATIC_LENGTH,
        longest=UNLIMITED,
        pooling=("mean",),
    )


def _without_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), "post_processor": None}))


def _add_pooling(plain: PlainEncoder, place: Path) -> None:
    said = _module_config(place)
    _refuse_unknown(place, said, POOLING_KEYS | set(OLD_POOLINGS))
    ways = said.get("pooling_mode") or tuple(way for key, way in OLD_POOLINGS.items() if said.get(key)) or ("mean",)
    plain.pooling = (ways,) if isinstance(ways, str) else tuple(ways)
    plain.pool_prompt = bool(said.get("include_prompt", True))
    if plain.projection:
        raise CheckpointError(f"{place} pools after another layer, which is not understood")


def _add_dense(plain: PlainEncoder, place: Path) -> None:
    said = _module_config(place)
    names = {"module_input_name", "module_output_name"}
    _refuse_unknown(place, said, {"in_features", "out_features", "bias", "activation_function", "use_residual", *names})
    _refuse_token_vectors(place, said)
    path = str(said.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = path.rpartition(".")[2].lower()
    if not path.startswith("torch.nn.") or activation not in ACTIVATIONS:
        raise CheckpointError(f"{place} has the activation {path}; understood are {', '.join(ACTIVATIONS)}")
    layer = {"kind": "dense", "inputs": said["in_features"], "outputs": said["out_features"]}
    layer |= {"bias": said.get("bias", True), "activation": activation, "residual": said.get("use_residual", False)}
    _add_layer(plain, layer, place)


def _add_layer_norm(plain: PlainEncoder, place: Path) -> None:
    said = _module_config(place)
    _refuse_unknown(place, said, {"dimension"})
    _add_layer(plain, {"kind": "layer_norm", "outputs": said["dimension"]}, place)


def _add_layer(plain: PlainEncoder, layer: dict[str, Any], place: Path) -> None:
    number = len(plain.projection)
    plain.projection.append(layer)
    for file in weight_files(place):
        for name, tensor in load_file(file).items():
            plain.weights[f"{number}.{name.removeprefix('norm.')}"] = tensor.float()


def _add_normalize(plain: PlainEncoder, place: Path) -> None:
    _refuse_token_vectors(place, read_json(place / "config.json"))
    plain.projection.append({"kind": "normalize"})


_MODULES = {"Pooling": _add_pooling, "Dense": _add_dense, "LayerNorm": _add_layer_norm, "Normalize": _add_normalize}


def _module_config(place: Path) -> dict[str, Any]:
    said = read_json(place / "config.json")
    if not said:
        raise CheckpointError(f"{place} has no config.json, so what it does cannot be known; copy the whole model")
    return said


def _refuse_token_vectors(place: Path, said: Mapping[str, Any]) -> None:
    for name in ("module_input_name", "module_output_name"):
        if said.get(name) not in (None, "sentence_embedding"):
            raise CheckpointError(f"{place} works on {said[name]}; understood are layers after pooling alone")


def _refuse_unknown(place: Path, said: Mapping[str, Any], known: set[str]) -> None:
    """Refuse settings that may change vectors in a way nobody here knows of; those that are off say nothing."""
    unknown = [name for name, value in said.items() if name not in known and value not in (None, False, {}, [])]
    if unknown:
        raise CheckpointError(
            f"{place} says {unknown[0]} {said[unknown[0]]!r}, which is not understood; understood are "
            + ", ".join(sorted(known))
        )


def _read_prompts(folder: Path, plain: PlainEncoder) -> None:
    said = read_json(folder / ST_CONFIG_NAME)
    prompts = said.get("prompts") or {}
    plain.prompts = {role: prompts.get(role) or "" for role in ROLES}
    similarity = said.get("similarity_fn_name")
    if similarity in (None, "cosine") or (plain.projection and plain.projection[-1]["kind"] == "normalize"):
        return
    if similarity != "dot":
        raise CheckpointError(
            f"{folder} compares vectors by {similarity!r}, and here they are compared by cosine or inner product; to "
            f"compare its directions alone, set similarity_fn_name to cosine in a copy of {ST_CONFIG_NAME}"
        )
    plain.keeps_lengths = True
