"""Define the options that name a model and say how to run it, and read them as a `ModelSpec`."""

import argparse

from cde_retriever.backends.model_spec import BACKENDS, ModelSpec

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def add_revision(command: argparse.ArgumentParser) -> None:
    """Add ``--revision``."""
    command.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a model on the Hub (default: main)"
    )


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that `read_model_options` reads."""
    command.add_argument("--model", metavar="MODEL", help="model folder or Hub id (default: the bundled model)")
    add_revision(command)
    command.add_argument("--device", help="device to compute on: cpu, cuda, mps (default: the fastest available)")
    command.add_argument("--backend", choices=BACKENDS, help="library that runs the model (default: torch)")
    command.add_argument(
        "--dtype",
        choices=PRECISIONS,
        help="precision of the weights; int8 needs --backend onnx or openvino (default: float32, or that of an export)",
    )
    command.add_argument(
        "--truncate-dim", type=int, metavar="N", help="keep only the first N numbers of a vector (default: all)"
    )


def read_model_options(options: argparse.Namespace) -> ModelSpec:
    """Return the model that the options name."""
    return ModelSpec(
        options.model, options.revision, options.device, options.dtype, options.backend, options.truncate_dim
    )
