"""Define `cde wrap`: write any encoder as a checkpoint."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_reading_options, add_revision, read_reading
from cde_retriever.cli.output import output_folder
from cde_retriever.errors import CheckpointError, ConfigError

if TYPE_CHECKING:  # help loads no model
    from cde_retriever.context.context import ModelIdentity

EXAMPLES = """\
  cde wrap BAAI/bge-small-en-v1.5 -o bge-cde           an encoder, with its own pooling, prompts and maximum length
  cde wrap BAAI/bge-small-en-v1.5 -o bge-short --vector-size 128
                                                       one vector of fewer numbers than the encoder has
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
    wrap.add_argument(
        "--vector-size",
        type=int,
        metavar="N",
        help="numbers of the one vector; below those of the encoder main directions, above them words beside "
        "(default: 384 more; of a checkpoint its own)",
    )
    add_reading_options(wrap)


def _wrap(options: argparse.Namespace) -> None:
    from cde_retriever.backends.model_spec import ModelSpec
    from cde_retriever.encoder.encoder import ContextualEncoder

    reading = replace(read_reading(options), vector_size=options.vector_size)
    folder = output_folder(options.output)
    _refuse_other_formats(folder)
    encoder = ContextualEncoder.from_spec(ModelSpec(options.model, options.revision, device="cpu", reading=reading))
    for role in encoder.config.prompts:
        encoder.text_tokenizer(role=role)  # refuses a prompt that leaves no room for a text
    _refuse_another(folder, encoder.identity)
    encoder.save_pretrained(folder)
    say(f"{folder} holds {encoder.identity.name}, {encoder.dimension} numbers a vector; CDEEmbedding({str(folder)!r})")
    said = {"output": str(folder), "sha256": encoder.identity.sha256, "dimension": encoder.dimension}
    write_result({**said, "max_length": encoder.config.max_length})


def _refuse_other_formats(folder: Path) -> None:
    """Keep another library's model, and an export: a checkpoint written over it would leave a mixture."""
    from cde_retriever.backends.export_folder import is_export
    from cde_retriever.checkpoint.folder import CONFIG_NAME
    from cde_retriever.checkpoint.kinds import ELSEWHERE, MODULES_NAME, read_json

    there = read_json(folder / CONFIG_NAME, ELSEWHERE)
    if is_export(folder) or (folder / MODULES_NAME).exists() or (there and "cde_format_version" not in there):
        raise ConfigError(f"{folder} holds another model, which would be lost; choose another folder")


def _refuse_another(folder: Path, received: "ModelIdentity") -> None:
    """Keep the checkpoint of another model: it may be trained, and indexes in use with it."""
    from cde_retriever.checkpoint.folder import CONFIG_NAME, hash_checkpoint
    from cde_retriever.checkpoint.kinds import ELSEWHERE, holds_another

    if not (folder / CONFIG_NAME).exists():
        return
    try:
        there = hash_checkpoint(folder)
    except CheckpointError as error:
        raise ConfigError(f"{folder} may hold another model ({error}); {ELSEWHERE}") from error
    if there != received.sha256:
        raise holds_another(folder, there[:12], f"{received.name} ({received.sha256[:12]})")
