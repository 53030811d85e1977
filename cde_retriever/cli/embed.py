"""Define `cde embed`: embed a corpus of any size into Parquet files."""

import argparse
from typing import TYPE_CHECKING

from cde_retriever.cli.column_options import add_column_options, read_columns
from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_model_options, read_model_options
from cde_retriever.cli.output import output_folder

if TYPE_CHECKING:  # help needs no extra
    from cde_retriever.bulk.summary import BulkSummary

SUMMARY = "Embed a corpus of any size under one context; the same command again continues where it stopped."
EXAMPLES = """\
  cde embed ./docs -o vectors                          fit a context to the folder, then embed its passages
  cde embed ./parquet -o vectors --engine ray --workers 64 --context context.safetensors
                                                       embed under an existing context on a Ray cluster"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    embed = program.add("embed", SUMMARY, _embed, EXAMPLES, continues=True)
    embed.add_argument(
        "corpus",
        metavar="CORPUS",
        help="file or folder to embed: rows as .jsonl, .ndjson, .parquet, .csv or .tsv; or text, Markdown and HTML "
        "files, which are cut into passages",
    )
    embed.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder to write the context and the vectors to"
    )
    add_model_options(embed)
    embed.add_argument(
        "--context", metavar="FILE", help="context to embed under (default: that of OUT, else fitted to the corpus)"
    )
    embed.add_argument(
        "--language",
        metavar="NAME",
        help="language of the corpus, whose stemmer its words go through, such as german; 'none' for no stemmer "
        "(default: the model's)",
    )
    embed.add_argument(
        "--selection",
        default="random",
        choices=("random", "kmeans", "k-center"),
        help="how the documents of a fitted context are chosen (default: random)",
    )
    embed.add_argument(
        "--context-size",
        type=int,
        metavar="N",
        help="documents that a fitted context holds at most (default: the model's, 8192 for the bundled one)",
    )
    embed.add_argument(
        "--parts",
        default="one",
        choices=("one", "dense", "both"),
        help="write one vector a document, the dense part for hybrid search, or both parts, dense and sparse "
        "(default: one)",
    )
    add_column_options(embed)
    embed.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="batch size, in texts of 128 tokens (default: 32)"
    )
    embed.add_argument(
        "--shard-size", type=int, default=8192, metavar="N", help="documents in one Parquet file (default: 8192)"
    )
    embed.add_argument(
        "--engine",
        default="local",
        choices=("local", "ray"),
        help="run in this process or on a Ray cluster (default: local)",
    )
    embed.add_argument(
        "--workers", type=int, metavar="N", help="number of Ray workers (default: one per GPU, or one per core)"
    )


def _embed(options: argparse.Namespace) -> None:
    from cde_retriever.backends.kernels import keep_few_kernels
    from cde_retriever.bulk.run import embed_corpus
    from cde_retriever.bulk.settings import BulkSettings
    from cde_retriever.context.context import Context

    output = output_folder(options.output)
    keep_few_kernels()
    settings = BulkSettings(
        model=read_model_options(options),
        columns=read_columns(options),
        parts=options.parts,
        batch_size=options.batch_size,
        shard_size=options.shard_size,
        engine=options.engine,
        language=options.language,
        selection=options.selection,
        context_size=options.context_size,
        workers=options.workers,
    )
    context = None if options.context is None else Context.load(options.context)
    _report(embed_corpus(options.corpus, output, settings, context=context, show_progress=True))


def _report(done: "BulkSummary") -> None:
    from dataclasses import asdict

    if done.cut:
        say(
            f"{done.cut} of {done.documents} documents are longer than the model reads, and were cut; split them, or "
            "give a folder of text files, which is cut into passages that fit"
        )
    if done.without_documents:
        some = ", ".join(done.without_documents[:5]) + (", ..." if len(done.without_documents) > 5 else "")
        say(f"{len(done.without_documents)} files gave no document: {some}")
    if done.empty:
        say(f"{done.empty} documents have no text; they have vectors, which mean nothing")
    say(
        f"{done.embedded} documents embedded in {done.seconds:.1f} s ({done.rate:.1f} a second), {done.skipped} were "
        f"there already; all {done.documents} are in {done.output}, under context {done.context[:12]}"
    )
    write_result({**asdict(done), "documents_per_second": round(done.rate, 2)})
