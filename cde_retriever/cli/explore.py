"""Define `cde explore`: see what an index finds, under its context and without, and why."""

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_model_options, add_pickle_option, read_model_options
from cde_retriever.cli.output import output_folder
from cde_retriever.context.whole_numbers import whole_number

if TYPE_CHECKING:  # help needs no extra
    from cde_retriever.serving.exploration import Exploration

EXAMPLES = """\
  cde explore index                                    a page at this machine's port 8000, to ask what you like
  cde explore index --context other/context.safetensors
                                                       another context to switch to
  cde explore index --query password -o seen
                                                       the same for given queries, as a file: seen/explore.html"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    explore = program.add(
        "explore",
        "See results under own context, null context, BM25, both and plain, and why.",
        _explore,
        EXAMPLES,
        continues=True,
        extra="cde-retriever[explore]",
    )
    explore.add_argument("index", metavar="INDEX", help="folder of a LlamaIndex index or a LangChain FAISS index")
    explore.add_argument(
        "--query", action="append", metavar="TEXT", help="write a page for it, may be repeated (default: serve a page)"
    )
    explore.add_argument(
        "-o", "--output", metavar="OUT", help="folder for page and kept vectors (default: INDEX.explore beside INDEX)"
    )
    explore.add_argument(
        "--beside", action="append", default=[], metavar="MODEL", help="another encoder to compare with (default: none)"
    )
    explore.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="CONTEXT",
        help="file of another context, or folder of an index, to compare with (default: none)",
    )
    explore.add_argument(
        "--documents", type=int, default=5000, metavar="N", help="most texts to search, drawn (default: 5000)"
    )
    explore.add_argument("--port", type=int, default=8000, metavar="N", help="port, 0 for a free one (default: 8000)")
    add_pickle_option(explore)
    add_model_options(explore)


def _explore(options: argparse.Namespace) -> None:
    from cde_retriever.errors import ConfigError

    whole_number("--documents", options.documents, 1)
    if any(not query.strip() for query in options.query or ()):
        raise ConfigError("--query is empty; give words to search for, or leave it out to serve a page")
    index = Path(options.index).expanduser().resolve()
    beside = str(index.with_name(f"{index.name}.explore"))
    output = output_folder(beside if options.output is None else options.output)
    exploration, note = _open(options, index, output)
    from cde_retriever.serving.explored_page import write_page

    if options.query:
        page = write_page(exploration, exploration.ask(options.query), note=note)
        file = page.save(output / "explore.html")
        say(f"{file} shows {len(options.query)} queries")
        write_result({"page": str(file), "texts": len(exploration.texts)})
        return
    from cde_retriever.serving.explored_app import make_app
    from cde_retriever.serving.server import serve

    def ready(address: str) -> None:
        say(f"open {address} in a browser; Ctrl-C stops it")
        write_result({"url": address, "texts": len(exploration.texts)})

    serve(make_app(exploration, note), "127.0.0.1", options.port, ready)


def _open(options: argparse.Namespace, index: Path, output: Path) -> "tuple[Exploration, str]":
    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_retriever.lifecycle.kept_vectors import KeptVectors, kept_embedding
    from cde_retriever.lifecycle.stored_index import folder_kind
    from cde_retriever.serving.contexts import read_context
    from cde_retriever.serving.exploration import Exploration

    def embedding(encoder: ContextualEncoder) -> KeptVectors:
        return kept_embedding(encoder, output / "vectors", show_progress=not options.query)

    paths = [Path(name).expanduser() for name in options.context]
    contexts = {f"{path.stem:.12} {read.fingerprint[:6]}": read for path in paths for read in [read_context(path)]}
    trusted = options.allow_dangerous_deserialization
    stored = folder_kind(index).open_folder(index, read_model_options(options), trusted)
    texts, note = list(dict.fromkeys(stored.texts)), ""
    if len(texts) > options.documents:
        note = f"They are drawn from {len(texts)}; --documents takes more."
        texts = random.Random(0).sample(texts, options.documents)
    beside = {name: embedding(ContextualEncoder.from_pretrained(name)) for name in options.beside}
    form = "both" if stored.parts == "dense" else "one"
    return Exploration(texts, stored.encoder, form, embedding(stored.encoder), beside, contexts), note
