"""Define `cde export`: write a model as ONNX graphs."""

import argparse

from cde_retriever.backends.export_folder import PRECISIONS
from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_reading_options, add_revision, read_reading
from cde_retriever.cli.output import output_folder

EXAMPLES = """\
  cde export -o serving --dtype int8                   export the bundled model with 8-bit weights
  cde export my-cde -o serving                         export a model of your own"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    export = program.add("export", "Write a model as ONNX graphs that run without PyTorch.", _export, EXAMPLES)
    export.add_argument("model", nargs="?", metavar="MODEL", help="model folder or Hub id (default: the bundled model)")
    add_revision(export)
    export.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write the graphs to")
    export.add_argument(
        "--dtype", default=PRECISIONS[0], choices=PRECISIONS, help="precision of the weights (default: float32)"
    )
    add_reading_options(export)


def _export(options: argparse.Namespace) -> None:
    from cde_retriever.backends.export import export_onnx
    from cde_retriever.checkpoint.folder import find_checkpoint

    output = output_folder(options.output)
    source, _ = find_checkpoint(options.model, options.revision)
    folder = export_onnx(source, output, options.dtype, reading=read_reading(options))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{folder} holds the model in {options.dtype}, {size / 1e6:.0f} MB; give this folder wherever a model is named")
    write_result({"output": str(folder), "dtype": options.dtype, "bytes": size})
