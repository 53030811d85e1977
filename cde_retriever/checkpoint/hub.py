"""Fetch a model's folder from the Hugging Face Hub: no code, no pickles, and a sentence for whatever goes wrong."""

from pathlib import Path

from cde_retriever.checkpoint.kinds import kind_of
from cde_retriever.errors import CheckpointError

CONFIGURATIONS = ["config.json", "modules.json", "config_sentence_transformers.json", "adapter_config.json"]
FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
LEFT_OUT = ["onnx/*", "openvino/*", "coreml/*", "*checkpoint-*", "*.onnx.json"]


def download(name: str, revision: str | None) -> Path:
    """Return the local folder of a model on the Hub, fetched if it is not there yet.

    Configurations come first, so that what cannot be used is refused before its weights are fetched.

    Raises:
        CheckpointError: if there is no such model, it may not be read, or the network does not give it; says which.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=CONFIGURATIONS))
        kind_of(folder)
        return Path(snapshot_download(name, revision=folder.name, allow_patterns=FILES, ignore_patterns=LEFT_OUT))
    except CheckpointError:
        raise
    except HFValidationError as error:
        raise CheckpointError(f"{name!r} is neither a folder nor a Hub id ({error})") from error
    except Exception as error:  # the libraries below raise classes of their own for a broken connection
        raise CheckpointError(_reason(name, revision, error)) from error


def download_file(name: str, file: str) -> Path:
    """Return one file of a model on the Hub, fetched if it is not there yet.

    Raises:
        CheckpointError: if it cannot be had; says why.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file))
    except Exception as error:  # the libraries below raise classes of their own for a broken connection
        raise CheckpointError(_reason(name, None, error)) from error


def _reason(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    kind = f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if isinstance(error, GatedRepoError):
        return f"{name!r} is gated; accept its terms on its page and run: hf auth login {kind}"
    if isinstance(error, RevisionNotFoundError):
        return f"{name!r} has no revision {revision!r} on the Hub {kind}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{name!r} is neither a folder nor a model on the Hub, unless it is private; check the name {kind}"
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{name!r} is no folder, and it is neither in the Hub's cache on this machine nor can the Hub be reached; "
            f"check the name and the connection, or copy the model here and give its folder {kind}"
        )
    return f"{name!r} is neither a folder nor a checkpoint the Hub gives {kind}"
