"""Tell what a folder holds: a CDE checkpoint, somebody's encoder, or something that is no encoder and is refused."""

from pathlib import Path
from typing import Any

from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.files.records import parse_json

CDE, RELEASED, SENTENCE_TRANSFORMERS, TRANSFORMERS = "cde", "released", "sentence-transformers", "transformers"
MODULES_NAME, ST_CONFIG_NAME = "modules.json", "config_sentence_transformers.json"
RELEASED_ARCHITECTURE = "ContextualDocumentEmbeddingTransformer"
SUPPORTED = (
    "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "eurobert", "gemma3_text", "gte",
    "modernbert", "mpnet", "mt5", "nomic_bert", "qwen3", "roberta", "t5", "umt5", "xlm-roberta",
)  # fmt: skip
"""Kinds of encoders, in the words of `transformers`, that were compared with sentence-transformers."""
OTHER_MODELS = {
    "CrossEncoder": "a cross-encoder, which scores pairs of texts and gives no vectors",
    "SparseEncoder": "a sparse encoder (SPLADE and its kin), whose vectors have a number for each word",
    "MultiVectorEncoder": "a multi-vector encoder (ColBERT and its kin), which gives a vector for each token",
}
ELSEWHERE = "choose another folder, or delete this one first"
"""What to do about a folder that was to be written to, and holds something."""
SAFE = "only safetensors files are read, since a pickle can run any code"
CONVERT = (
    'python -c "from sentence_transformers import SentenceTransformer as S; '
    "S('{folder}').save_pretrained('{folder}-safe')\""
)


def kind_of(folder: Path) -> str:
    """Return what a folder holds.

    Raises:
        CheckpointError: if it is nothing that gives one vector a text, or nothing that is understood; says what it is
            and what to do.
    """
    config = read_json(folder / "config.json")
    if "cde_format_version" in config:
        return CDE
    if RELEASED_ARCHITECTURE in (config.get("architectures") or ()):
        return RELEASED
    _refuse_other_files(folder)
    model_type = read_json(folder / ST_CONFIG_NAME).get("model_type", "SentenceTransformer")
    if model_type != "SentenceTransformer":
        said = OTHER_MODELS.get(model_type, f"a {model_type}")
        raise CheckpointError(f"{folder} holds {said}; name an encoder that gives one vector a text")
    if (folder / MODULES_NAME).is_file():
        return SENTENCE_TRANSFORMERS
    if not config:
        raise CheckpointError(
            f"{folder} has no config.json and no {MODULES_NAME}; expected a CDE checkpoint, a "
            "sentence-transformers model, or an encoder as transformers saves it"
        )
    refuse_architecture(folder, config)
    return TRANSFORMERS


def _refuse_other_files(folder: Path) -> None:
    """Refuse folders whose very files say that no encoder is in them."""
    if not (folder / MODULES_NAME).is_file() and any(folder.glob("*.gguf")):
        raise CheckpointError(
            f"{folder} holds GGUF weights, the format of llama.cpp, which is not read here; name the model they were "
            "made from"
        )
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} holds an adapter of {base!r} and not the whole model; merge them first: load it with "
            "SentenceTransformer, call transformers_model.merge_and_unload(), and save the result"
        )


def refuse_architecture(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a network that is no text encoder of a supported kind.

    Args:
        folder: Where it lies, for the message.
        config: Its ``config.json``.

    Raises:
        CheckpointError: with a sentence on what it is.
    """
    kind = config.get("model_type")
    made = ", ".join(config.get("architectures") or ()) or "none"
    if "SequenceClassification" in made:
        raise CheckpointError(f"{folder} holds {OTHER_MODELS['CrossEncoder']} ({made}); name an encoder")
    if kind in ("clip", "siglip", "chinese_clip") or "CLIP" in made:
        raise CheckpointError(f"{folder} holds a model of images and texts ({made}), and only texts are read here")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method")
        raise CheckpointError(
            f"{folder} holds weights quantised with {method}; name the model with float weights (dtype='int8' with "
            "backend='onnx' or 'openvino' makes 8-bit ones)"
        )
    if kind not in SUPPORTED and kind != "static":
        code = " It needs code of its own, which is never run here." if "auto_map" in config else ""
        raise CheckpointError(
            f"{folder} holds a model of type {kind!r} ({made}), which is not understood.{code} Understood are "
            + ", ".join(SUPPORTED)
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files with a module's weights, several if they are split.

    Raises:
        CheckpointError: if there are none, or one that the index names is missing.
        PermissionError: if one may not be read; the safetensors library says that it is not there.
    """
    index = read_json(folder / "model.safetensors.index.json")
    if index:
        names = sorted(set(index["weight_map"].values()))
        outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
        if outside:
            raise CheckpointError(
                f"the index of the weights in {folder} names {outside[0]}, outside the model's folder"
            )
        files = [folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which its index names; copy them there too")
        return _readable(files)
    if (folder / "model.safetensors").is_file():
        return _readable([folder / "model.safetensors"])
    if any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds pytorch_model.bin only; {SAFE}. Convert it where you trust it: "
            + CONVERT.format(folder=folder)
        )
    others = sorted(path.suffix for path in folder.iterdir() if path.suffix in (".h5", ".onnx", ".msgpack", ".ot"))
    raise CheckpointError(f"{folder} has no model.safetensors{f' (but {others[0]})' if others else ''}; {SAFE}")


def _readable(files: list[Path]) -> list[Path]:
    for file in files:
        file.open("rb").close()
    return files


def holds_another(folder: Path, there: str, received: str) -> ConfigError:
    """Return the error of a folder to write to that holds another model: it may be trained, and indexes in use with it.

    Args:
        folder: The folder.
        there: What tells its model from others of its name, such as the beginning of its sha256.
        received: The name of the model that was to be written, and the same of it.

    Raises:
        CheckpointError: if what the folder holds is damaged.
    """
    name = read_json(folder / "config.json", ELSEWHERE).get("name")
    return ConfigError(f"{folder} holds {name} ({there}), received {received}; {ELSEWHERE}")


def read_json(path: Path, remedy: str = "copy it again") -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no file.

    Args:
        path: The file.
        remedy: What to do if it is damaged: the end of the message.

    Raises:
        CheckpointError: if the file is damaged, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        values = parse_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, expected a JSON object; {remedy}")
    return values
