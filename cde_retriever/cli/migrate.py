"""Define `cde migrate`: make an index of ours of one that another embedding built."""

import argparse
from dataclasses import asdict
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_model_options, add_pickle_option, read_model_options
from cde_retriever.cli.output import output_folder
from cde_retriever.cli.store_options import add_store_options, read_store_options
from cde_retriever.errors import ConfigError

EXAMPLES = """\
  cde migrate storage -o index                                   a LlamaIndex index of all-MiniLM-L6-v2
  cde migrate storage -o index --model BAAI/bge-small-en-v1.5    of another encoder, which stays the encoder
  cde migrate faiss -o index --parts both --allow-dangerous-deserialization    a LangChain index, for hybrid search
  cde migrate --chroma ./chroma --collection handbook -o handbook-context    a collection, into another one beside it"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    migrate = program.add(
        "migrate",
        "Make an index that knows its corpus of one that another embedding built.",
        _migrate,
        EXAMPLES,
        continues=True,
    )
    migrate.add_argument(
        "old",
        metavar="OLD",
        nargs="?",
        help="folder of a LlamaIndex index or a LangChain FAISS index; it stays (default: the collection)",
    )
    migrate.add_argument(
        "-o", "--output", required=True, metavar="NEW", help="folder of the new index, or of a collection's context"
    )
    add_store_options(migrate, "OLD holds them")
    migrate.add_argument(
        "--parts",
        choices=("one", "both"),
        help="one vector a document, or both parts for hybrid search (default: both in LlamaIndex, one in LangChain)",
    )
    migrate.add_argument(
        "--keep-plain",
        action="store_true",
        help="keep plain vectors in the new index, so that cde refit needs no model (default: do not)",
    )
    add_pickle_option(migrate)
    add_model_options(migrate)


def _migrate(options: argparse.Namespace) -> None:
    from cde_retriever.lifecycle.migrate import COMPARED, SAME, migrate

    collection = read_store_options(options)
    if (collection is None) == (options.old is None):
        raise ConfigError("give either OLD, the folder of an index, or --chroma or --qdrant STORE --collection NAME")
    done = migrate(
        collection or Path(options.old).expanduser(),
        output_folder(options.output),
        model=read_model_options(options),
        parts=options.parts,
        keep_plain=options.keep_plain,
        trust_pickle=options.allow_dangerous_deserialization,
        show_progress=True,
    )
    if done.taken_over:
        how = f"their vectors were taken over: {min(COMPARED, done.documents)} of them agree with the model's"
    elif done.cosine is None:
        how = "all were embedded: the old vectors are of another kind than the model's"
    else:
        how = f"all were embedded: an old vector has cosine {done.cosine:.4f} with the model's, less than {SAME}"
    where = done.new if done.collection is None else f"collection {done.collection}"
    say(f"{where} holds {done.documents} documents under context {done.context[:12]}; {how}; {done.old} is as it was")
    write_result(asdict(done))
