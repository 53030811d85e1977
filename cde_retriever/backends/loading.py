"""From a name to a model that runs: a folder or a Hub id, on one of the backends."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from cde_retriever.backends.backend import BACKENDS, Backend
from cde_retriever.backends.export_folder import PRECISIONS, cached_export, is_export
from cde_retriever.checkpoint.folder import TOKENIZER_NAME, find_checkpoint, hash_checkpoint, read_tokenizer
from cde_retriever.context.context import ModelIdentity
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    import torch

    from cde_retriever.backends.exported import ExportBackend

Loaded = tuple[Backend, Tokenizer, ModelIdentity]


def load(
    name: str | os.PathLike[str] | None,
    revision: str | None,
    *,
    device: "torch.device | str | None",
    dtype: "torch.dtype | str | None",
    backend: str,
) -> Loaded:
    """Load what `ContextualEncoder.from_pretrained` describes; arguments and errors are those."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}, expected {', '.join(map(repr, BACKENDS))}")
    folder, commit = find_checkpoint(name, revision)
    if backend != "torch":
        precision = None if dtype is None else str(dtype).removeprefix("torch.")
        return _load_export(backend, folder, commit, None if device is None else str(device), precision)
    from cde_retriever.backends.pytorch import TorchBackend, as_dtype, default_device
    from cde_retriever.checkpoint.checkpoint import read_checkpoint

    read = read_checkpoint(folder, device=device or default_device(), dtype=as_dtype(dtype))
    identity = identify(read.model.config, read.sha256, commit)
    return TorchBackend(read.model, read.stored_dtype, sole_owner=True), read.tokenizer, identity


def _load_export(runtime: str, folder: Path, commit: str | None, device: str | None, precision: str | None) -> Loaded:
    """Load an export, or a checkpoint's, which is made and kept if it is not there yet."""
    if not is_export(folder):
        wanted = precision or PRECISIONS[0]
        source, folder = folder, cached_export(hash_checkpoint(folder), wanted)
        if not is_export(folder):
            from cde_retriever.backends.export import export_onnx

            export_onnx(source, folder, wanted)
    backend = _run_export(runtime, folder, device)
    if precision not in (None, backend.export.dtype):
        raise ConfigError(
            f"{folder} is an export in {backend.export.dtype}, received dtype {precision!r}; leave dtype out, or "
            "export the checkpoint in that"
        )
    identity = identify(backend.config, backend.export.checkpoint, commit)
    return backend, read_tokenizer(folder / TOKENIZER_NAME), identity


def _run_export(runtime: str, folder: Path, device: str | None) -> "ExportBackend":
    if runtime == "openvino":
        from cde_retriever.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(folder, device)
    from cde_retriever.backends.onnx_runtime import OnnxBackend

    return OnnxBackend(folder, device)


def identify(config: ModelConfig, sha256: str, revision: str | None) -> ModelIdentity:
    """Return what tells a model from others."""
    return ModelIdentity(
        name=config.name,
        revision=revision,
        sha256=sha256,
        prompts=dict(config.prompts),
        max_length=config.max_length,
        ordered=config.order_matters,
    )
