"""`cde`: contextual embeddings from the command line.

    cde embed CORPUS -o OUT      a corpus of any size to vectors on disk, resumable, on this machine or a Ray cluster
    cde export [MODEL] -o OUT    a checkpoint as ONNX, for ONNX Runtime and OpenVINO, with no PyTorch

The result goes to stdout as a JSON line, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 130
interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cde_retriever.backends.export_folder import PRECISIONS
from cde_retriever.backends.model_spec import BACKENDS
from cde_retriever.errors import CDEError, ConfigError

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
EXAMPLES = {
    "embed": """\
  cde embed corpus.jsonl.gz -o vectors                 fits the context to the corpus, then embeds on this machine
  cde embed ./parquet -o vectors --engine ray --workers 64 --context context.safetensors
                                                       under a context that is there, on a Ray cluster""",
    "export": """\
  cde export -o serving --dtype int8                   the bundled checkpoint, with weights of 8 bits
  CDEEmbedding("serving", backend="onnx")              loads it""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as done:  # argparse has said what there is to say
        return int(done.code or 0)
    try:
        options.run(options)
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on where it stopped")
        return INTERRUPTED
    except (ConfigError, FileNotFoundError) as error:
        return _fail(error, options, WRONG_USE)
    except ImportError as error:
        if (error.name or "").startswith("cde_"):
            raise
        return _fail(error, options, FAILED)
    except (CDEError, ValueError, OSError) as error:
        return _fail(error, options, FAILED)
    return 0


def _fail(error: Exception, options: argparse.Namespace, code: int) -> int:
    if options.debug:
        raise error
    _say(f"cde {options.command}: {error}")
    return code


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="cde", description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_embed(commands)
    _add_export(commands)
    return parser


def _add(commands: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="examples:\n" + EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("--debug", action="store_true", help="show where an error came from")
    return command


def _add_export(commands: Any) -> None:
    export = _add(commands, "export", "Write a checkpoint as ONNX graphs that need no PyTorch.", _export)
    export.add_argument("model", nargs="?", metavar="MODEL", help="folder or Hub id; by default the bundled checkpoint")
    _add_revision(export)
    export.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the graphs")
    export.add_argument(
        "--dtype", default=PRECISIONS[0], choices=PRECISIONS, help="precision of the weights; float32 by default"
    )


def _add_revision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a model on the Hub; default: main"
    )


def _add_embed(commands: Any) -> None:
    summary = "Embed a corpus of any size under one context; the same command again goes on where it stopped."
    embed = _add(commands, "embed", summary, _embed)
    embed.add_argument("corpus", metavar="CORPUS", help=".jsonl, .jsonl.gz or .parquet file, or a folder of such")
    embed.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the context and the vectors")
    embed.add_argument("--model", metavar="CHECKPOINT", help="folder or Hub id; by default the bundled checkpoint")
    _add_revision(embed)
    embed.add_argument("--context", metavar="FILE", help="context to embed under; by default fitted to the corpus")
    embed.add_argument("--engine", default="local", choices=("local", "ray"), help="local (default) or ray")
    embed.add_argument("--workers", type=int, metavar="N", help="ray: actors; by default one a GPU, or else one a core")
    embed.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts of 128 tokens at once, 32")
    embed.add_argument("--shard-size", type=int, default=8192, metavar="N", help="documents a part, 8192")
    embed.add_argument("--text-column", default="text", metavar="NAME", help="the document's text; text")
    embed.add_argument("--title-column", metavar="NAME", help="put before it; title, where there is one; '' for none")
    embed.add_argument("--id-column", default="id", metavar="NAME", help="what a vector is found by; id")
    embed.add_argument("--device", help="cpu, cuda, mps ...; by default the fastest there is")
    embed.add_argument("--backend", choices=BACKENDS, help="torch (default), onnx or openvino")
    embed.add_argument("--truncate-dim", type=int, metavar="N", help="numbers of a vector to keep; by default all")
    embed.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        help="precision (default: float32, or that of an export); int8 with --backend onnx or openvino",
    )


def _export(options: argparse.Namespace) -> None:
    from cde_retriever.backends.export import export_onnx
    from cde_retriever.checkpoint.folder import find_checkpoint

    source, _ = find_checkpoint(options.model, options.revision)
    folder = export_onnx(source, Path(options.output).expanduser(), options.dtype)
    size = sum(path.stat().st_size for path in folder.iterdir())
    _say(f'{folder} holds the model in {options.dtype}, {size / 1e6:.0f} MB; load it with backend="onnx"')
    sys.stdout.write(json.dumps({"output": str(folder), "dtype": options.dtype, "bytes": size}) + "\n")


def _embed(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cde_retriever.backends.model_spec import ModelSpec
    from cde_retriever.bulk.run import embed_corpus
    from cde_retriever.bulk.settings import BulkSettings
    from cde_retriever.bulk.shards import keep_few_kernels
    from cde_retriever.context.context import Context
    from cde_retriever.corpus.rows import Columns

    keep_few_kernels()
    settings = BulkSettings(
        model=ModelSpec(
            options.model, options.revision, options.device, options.dtype, options.backend, options.truncate_dim
        ),
        columns=Columns(options.text_column, options.id_column, options.title_column),
        batch_size=options.batch_size,
        shard_size=options.shard_size,
        engine=options.engine,
        workers=options.workers,
    )
    context = None if options.context is None else Context.load(options.context)
    done = embed_corpus(options.corpus, options.output, settings, context=context, show_progress=True)
    if done.cut:
        _say("some texts were longer than the model reads, and were cut; split them to use them whole")
    if done.empty:
        _say(f"{done.empty} documents have no text; they have vectors, which mean nothing")
    _say(
        f"{done.embedded} documents embedded in {done.seconds:.1f} s ({done.rate:.1f} a second), {done.skipped} were "
        f"there already; all {done.documents} are in {done.output}, under context {done.context[:12]}"
    )
    sys.stdout.write(json.dumps({**asdict(done), "documents_per_second": round(done.rate, 2)}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
