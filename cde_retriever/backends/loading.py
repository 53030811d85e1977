"""From a name to a model that runs: a folder or a Hub id, on one of the backends."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from cde_retriever.backends.backend import Backend
from cde_retriever.backends.export_folder import PRECISIONS, cached_export, is_export
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.checkpoint.folder import TOKENIZER_NAME, find_checkpoint, hash_checkpoint, read_tokenizer
from cde_retriever.context.context import ModelIdentity
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    from cde_retriever.backends.exported import ExportBackend

Loaded = tuple[Backend, Tokenizer, ModelIdentity]


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
    """
    folder, commit = find_checkpoint(spec.name, spec.revision)
    return FoundModel(folder, commit, spec.backend or "torch")


def load(spec: ModelSpec, found: FoundModel | None = None) -> Loaded:
    """Load what `ContextualEncoder.from_pretrained` describes, and raise what it says.

    Args:
        spec: The model, and how to run it.
        found: What `find_model` returned for the spec, if it was asked before.
    """
    found = found or find_model(spec)
    if found.backend != "torch":
        return _load_export(found, spec)
    from cde_retriever.backends.pytorch import TorchBackend, as_dtype, default_device
    from cde_retriever.checkpoint.checkpoint import read_checkpoint

    read = read_checkpoint(found.folder, device=spec.device or default_device(), dtype=as_dtype(spec.dtype))
    identity = identify(read.model.config, read.sha256, found.commit)
    return TorchBackend(read.model, read.stored_dtype, sole_owner=True), read.tokenizer, identity


def _load_export(found: FoundModel, spec: ModelSpec) -> Loaded:
    """Load an export, or a checkpoint's, which is made and kept if it is not there yet."""
    folder = found.folder
    if not is_export(folder):
        wanted = spec.dtype or PRECISIONS[0]
        source, folder = folder, cached_export(hash_checkpoint(folder), wanted)
        if not is_export(folder):
            from cde_retriever.backends.export import export_onnx

            export_onnx(source, folder, wanted)
    backend = _run_export(found.backend, folder, spec.device)
    if spec.dtype not in (None, backend.precision):
        raise ConfigError(
            f"{folder} is an export in {backend.precision}, received dtype {spec.dtype!r}; leave dtype out, or "
            "export the checkpoint in that"
        )
    identity = identify(backend.config, backend.export.checkpoint, found.commit)
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
