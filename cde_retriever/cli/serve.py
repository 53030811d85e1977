"""Define `cde serve`: embed over HTTP, as OpenAI's API does."""

import argparse
import os
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_model_options, read_model_options
from cde_retriever.cli.output import output_folder
from cde_retriever.context.whole_numbers import whole_number

SUMMARY = "Serve vectors over HTTP in OpenAI's format, under one or several contexts."
EXAMPLES = """\
  cde serve index                                      the context of an index, on this machine alone
  cde serve context.safetensors --host 0.0.0.0 --rate 600/minute
                                                       callers elsewhere, who send a key that CDE_API_KEYS holds"""
KEYS = "CDE_API_KEYS"
KERNELS = 64
"""Kept for the many shapes of batches that queries of several callers make; 1,024 take half a gigabyte."""
LOCAL = ("127.0.0.1", "::1", "localhost")


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    serve = program.add("serve", SUMMARY, _serve, EXAMPLES)
    serve.add_argument(
        "contexts",
        nargs="*",
        metavar="CONTEXT",
        help="file of a context, or folder of an index (default: those in --store)",
    )
    serve.add_argument(
        "--store", metavar="FOLDER", help="let callers fit contexts, and keep them in a folder (default: they may not)"
    )
    serve.add_argument(
        "--null", action="store_true", help="serve the null context too, which knows no corpus (default: do not)"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="port, 0 for a free one (default: 8000)")
    serve.add_argument(
        "--rate", metavar="N/TIME", help="requests of a key, or of an address, such as 600/minute (default: any number)"
    )
    serve.add_argument(
        "--most-bytes", type=int, default=2**24, metavar="N", help="longest request in bytes (default: 16777216)"
    )
    serve.add_argument("--most-contexts", type=int, default=64, metavar="N", help="most contexts held (default: 64)")
    serve.add_argument(
        "--open",
        action="store_true",
        help=f"let in everybody at any address (default: where callers are elsewhere, {KEYS} holds their keys)",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="one more name that a server without keys or --open answers to, may be repeated (default: localhost, "
        "127.0.0.1 and [::1] alone)",
    )
    add_model_options(serve)


def _serve(options: argparse.Namespace) -> None:
    import warnings

    from cde_retriever.backends.kernels import keep_few_kernels, keep_one_heap
    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_retriever.errors import ConfigError, TruncationWarning
    from cde_retriever.serving.app import make_app
    from cde_retriever.serving.contexts import ServedContexts, read_context
    from cde_retriever.serving.gate import LOCAL_NAMES
    from cde_retriever.serving.server import serve

    keep_few_kernels(KERNELS)
    keep_one_heap()
    keys = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
    if not (keys or options.open or options.host in LOCAL):
        raise ConfigError(
            f"--host {options.host} lets in callers from elsewhere, and {KEYS} holds no keys; set it to one or "
            "several, with commas between them, or say --open"
        )
    store = None if options.store is None else output_folder(options.store)
    whole_number("--most-contexts", options.most_contexts, 1)
    whole_number("--most-bytes", options.most_bytes, 1)
    contexts = [read_context(Path(path).expanduser()) for path in options.contexts]
    spec = read_model_options(options).for_stored(contexts[0].model.name if contexts else None)
    encoder = ContextualEncoder.from_spec(spec)
    if options.null:
        contexts.append(encoder.null_context())
    served = ServedContexts(encoder, contexts, store=store, most=options.most_contexts)
    for why in served.unreadable.values():
        say(f"warning: {why}; this context is not served, whoever asks for it is answered 503")
    warnings.simplefilter("ignore", TruncationWarning)  # callers are told in the answer
    names = () if keys or options.open else (*LOCAL_NAMES, *options.allow_host)
    app = make_app(served, keys=keys, rate=options.rate, names=names, most_bytes=options.most_bytes)

    def ready(address: str) -> None:
        names = [f"{served.model}@{encoder.context.fingerprint}" for encoder in served.encoders]
        say(f"{served.model} under {len(names)} context{'s' * (len(names) != 1)} at {address}/v1; Ctrl-C stops it")
        write_result({"url": address, "models": names})

    serve(app, options.host, options.port, ready)
    say("stopped")
