"""Define the options that name the columns of a corpus's rows, and read them as `Columns`."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # help needs no extra
    from cde_retriever.corpus.rows import Columns


def add_column_options(command: argparse.ArgumentParser) -> None:
    """Add the options that `read_columns` reads."""
    command.add_argument("--id-column", default="id", metavar="NAME", help="column with document ids (default: id)")
    command.add_argument("--text-column", default="text", metavar="NAME", help="column with texts (default: text)")
    command.add_argument(
        "--title-column", metavar="NAME", help="column put before the text (default: title if present; '' for none)"
    )


def read_columns(options: argparse.Namespace) -> "Columns":
    """Return the columns that the options name."""
    from cde_retriever.corpus.rows import Columns

    return Columns(options.text_column, options.id_column, options.title_column)
