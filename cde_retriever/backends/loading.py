"""Load the model that a name stands for, a folder or a Hub id, on one of the backends."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from cde_retriever.backends.backend import Backend
from cde_retriever.backends.export_folder import CACHE_VARIABLE, PRECISIONS, cached_export, is_export
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.checkpoint.folder import (
    QUERIES,
    TOKENIZER_NAME,
    find_checkpoint,
    read_tokenizer,
    refuse_other_queries,
)
from cde_retriever.checkpoint.reading import identify_model, refuse_changes
from cde_retriever.context.context import ModelIdentity
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.model.config import ModelConfig

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    from cde_retriever.backends.exported import ExportBackend

Route = tuple[Backend, Tokenizer]
Loaded = tuple[Backend, Tokenizer, ModelIdentity, Route | None]
"""The last is what reads queries, where it is another than what reads documents."""
EXPORT_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""Backends that run exports, the preferred one first, and the packages they need."""


@dataclass(frozen=True)
class FoundModel:
    """Where the model of a spec lies, and what runs it.

    Attributes:
        folder: A checkpoint's folder, or an export's.
        commit: Its commit on the Hub, None if it is not from there.
        backend: ``"torch"``, ``"onnx"`` or ``"openvino"``.
    """

    folder: Path
    commit: str | None
    backend: str


def find_model(spec: ModelSpec) -> FoundModel:
    """Find the folder of a spec's model, and choose the backend if the spec leaves it open.

    Raises:
        CheckpointError: if there is no such model.
        ConfigError: for an export that PyTorch should run.
    """
    folder, commit = find_checkpoint(spec.name, spec.revision)
    if not is_export(folder):
        return FoundModel(folder, commit, spec.backend or "torch")
    if spec.backend == "torch":
        raise ConfigError(
            f"{folder} is an ONNX export, which PyTorch does not run; leave backend out, or give the checkpoint"
        )
    installed = [name for name, package in EXPORT_RUNTIMES.items() if find_spec(package)]
    return FoundModel(folder, commit, spec.backend or next(iter(installed or EXPORT_RUNTIMES)))


def load(spec: ModelSpec, found: FoundModel | None = None) -> Loaded:
    """Load what `ContextualEncoder.from_pretrained` describes, and raise what it says.

    Args:
        spec: The model, and how to run it.
        found: What `find_model` returned for the spec, if it was asked before.
    """
    found = found or find_model(spec)
    if found.backend != "torch":
        return _load_export(found, spec)
    from cde_retriever.backends.pytorch import TorchBackend, as_device, as_dtype
    from cde_retriever.checkpoint.opening import open_model

    read = open_model(
        found.folder,
        spec.reading,
        name=model_name(spec),
        device=as_device(spec.device),
        dtype=as_dtype(spec.dtype),
    )
    identity = identify(read.model.config, read.sha256, found.commit)
    backend = TorchBackend(read.model, read.stored_dtype, sole_owner=True, source_sha256=read.source_sha256)
    queries = None
    if read.queries is not None:
        queries = TorchBackend(read.queries.model, read.stored_dtype, sole_owner=True), read.queries.tokenizer
    return backend, read.tokenizer, identity, queries


def model_name(spec: ModelSpec) -> str:
    """Return the name of a model that brings none: a Hub id as it is, a folder's own name."""
    given = Path(spec.name or "").expanduser()
    return given.resolve().name if given.is_dir() else str(spec.name)


def _load_export(found: FoundModel, spec: ModelSpec) -> Loaded:
    """Load an export, or a checkpoint's, which is made and kept if it is not there yet."""
    if is_export(found.folder):
        backend, tokenizer = _run_export(found.backend, found.folder, spec.device)  # which finds damage first
        refuse_changes(found.folder, spec.reading)
    else:
        backend, tokenizer = _run_kept_export(found, spec)
    if spec.dtype not in (None, backend.precision):
        raise ConfigError(
            f"{found.folder} is an export in {backend.precision}, received dtype {spec.dtype!r}; leave dtype out, or "
            "export the checkpoint in that"
        )
    identity = identify(backend.config, backend.export.checkpoint, found.commit)
    queries = None
    if backend.config.query_encoder is not None:
        queries = _run_export(found.backend, backend.folder / QUERIES, spec.device)
        refuse_other_queries(backend.folder, backend.config.query_encoder, queries[0].export.checkpoint)
    return backend, tokenizer, identity, queries


def _run_kept_export(found: FoundModel, spec: ModelSpec) -> "tuple[ExportBackend, Tokenizer]":
    """Run the export of a checkpoint that the cache keeps; make it if it is not there, or damaged."""
    dtype = spec.dtype or PRECISIONS[0]
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(identify_model, found.folder, spec.reading)  # takes as long as the import, so both at once
        with suppress(ImportError):  # says what to install when it is opened
            import_module(EXPORT_RUNTIMES[found.backend])
        folder = cached_export(sha256.result(), dtype)
    if is_export(folder):
        try:
            return _run_export(found.backend, folder, spec.device)
        except CheckpointError as damage:
            warnings.warn(f"the kept export is made again: {damage}", stacklevel=2)
    from cde_retriever.backends.export import export_onnx

    try:
        export_onnx(found.folder, folder, dtype, reading=spec.reading, name=model_name(spec))
    except OSError as error:
        raise CheckpointError(
            f"the export of {found.folder} cannot be kept in {folder} ({error}); set {CACHE_VARIABLE} to a folder that "
            f"can be written to, or write it with: cde export {spec.name or ''} -o FOLDER --dtype {dtype} and load "
            "FOLDER"
        ) from error
    return _run_export(found.backend, folder, spec.device)


def _run_export(runtime: str, folder: Path, device: str | None) -> "tuple[ExportBackend, Tokenizer]":
    """Open an export and its tokenizer, both at once."""
    with ThreadPoolExecutor(1) as pool:
        tokenizer = pool.submit(read_tokenizer, folder / TOKENIZER_NAME)
        backend = _open_export(runtime, folder, device)  # says more of a damaged tokenizer than reading it does
        return backend, tokenizer.result()


def _open_export(runtime: str, folder: Path, device: str | None) -> "ExportBackend":
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
