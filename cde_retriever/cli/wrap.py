"""Define `cde wrap`: write any encoder as a checkpoint."""

import argparse
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_reading_options, add_revision, read_reading

EXAMPLES = """\
  cde wrap BAAI/bge-small-en-v1.5 -o bge-cde           an encoder, with its own pooling, prompts and maximum length
  cde wrap jxm/cde-small-v2 -o v2 --variant trained    convert the authors' own weights"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    wrap = program.add("wrap", "Write an encoder, or the authors' own weights, as a checkpoint.", _wrap, EXAMPLES)
    wrap.add_argument(
        "model",
        metavar="MODEL",
        help="encoder or the authors' weights, as folder or Hub id",
    )
    add_revision(wrap)
    wrap.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write the checkpoint to")
    add_reading_options(wrap)


def _wrap(options: argparse.Namespace) -> None:
    from cde_retriever.backends.model_spec import ModelSpec
    from cde_retriever.encoder.encoder import ContextualEncoder

    encoder = ContextualEncoder.from_spec(
        ModelSpec(options.model, options.revision, device="cpu", reading=read_reading(options))
    )
    folder = encoder.save_pretrained(Path(options.output).expanduser())
    say(f"{folder} holds {encoder.identity.name}, {encoder.dimension} numbers a vector; CDEEmbedding({str(folder)!r})")
    said = {"output": str(folder), "sha256": encoder.identity.sha256, "dimension": encoder.dimension}
    write_result({**said, "max_length": encoder.config.max_length})
