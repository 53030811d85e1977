"""Define the options that name a model and say how to run it, and read them as a `ModelSpec`."""

import argparse

from cde_retriever.backends.model_spec import BACKENDS, ModelSpec
from cde_retriever.checkpoint.reading import QUERIES, Reading
from cde_retriever.model.config import CUT, POOLINGS, WINDOWS

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def add_revision(command: argparse.ArgumentParser) -> None:
    """Add ``--revision``."""
    command.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a model on the Hub (default: main)"
    )


def add_reading_options(command: argparse.ArgumentParser) -> None:
    """Add the options that `read_reading` reads."""
    group = command.add_argument_group("how an encoder is read, where its folder does not say")
    group.add_argument(
        "--pooling", choices=POOLINGS, help="how token vectors become one (default: what the model says)"
    )
    group.add_argument("--max-length", type=int, metavar="N", help="longest text in tokens (default: the model's own)")
    group.add_argument(
        "--long-texts",
        choices=(CUT, WINDOWS),
        help="cut longer texts off, or read them as overlapping windows (default: what the model says, else cut)",
    )
    group.add_argument(
        "--context-for",
        choices=(QUERIES,),
        help="fit queries alone to the corpus, and leave documents as the encoder embeds them (default: change both)",
    )
    group.add_argument("--query-prompt", metavar="TEXT", help="text put before queries (default: the model's own)")
    group.add_argument("--document-prompt", metavar="TEXT", help="text put before documents (default: the model's own)")
    group.add_argument(
        "--variant",
        metavar="NAME",
        help="which network of the authors' own weights to compute (default: the likeliest)",
    )


def read_reading(options: argparse.Namespace) -> Reading:
    """Return what the options say about a model that is no CDE checkpoint."""
    prompts = {"query": options.query_prompt, "document": options.document_prompt}
    return Reading(
        pooling=options.pooling,
        max_length=options.max_length,
        prompts={role: prompt for role, prompt in prompts.items() if prompt is not None} or None,
        variant=options.variant,
        long_texts=options.long_texts,
        context_for=options.context_for,
    )


def add_pickle_option(command: argparse.ArgumentParser) -> None:
    """Add ``--allow-dangerous-deserialization``."""
    command.add_argument(
        "--allow-dangerous-deserialization",
        action="store_true",
        help="open the pickle of a FAISS index, which can run any program; only for an index that you made yourself "
        "(default: refuse)",
    )


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that `read_model_options` reads."""
    command.add_argument("--model", metavar="MODEL", help="model folder or Hub id (default: the bundled model)")
    add_revision(command)
    group = command.add_argument_group("how the model runs")
    group.add_argument("--device", help="device to compute on: cpu, cuda, mps (default: the fastest available)")
    group.add_argument("--backend", choices=BACKENDS, help="library that runs the model (default: torch)")
    group.add_argument(
        "--dtype",
        choices=PRECISIONS,
        help="precision of the weights; int8 needs --backend onnx or openvino (default: float32, or that of an export)",
    )
    group.add_argument(
        "--truncate-dim", type=int, metavar="N", help="keep only the first N numbers of a vector (default: all)"
    )
    add_reading_options(command)


def read_model_options(options: argparse.Namespace) -> ModelSpec:
    """Return the model that the options name."""
    return ModelSpec(
        options.model,
        options.revision,
        options.device,
        options.dtype,
        options.backend,
        options.truncate_dim,
        read_reading(options),
    )
