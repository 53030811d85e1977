"""Embed texts with the context of their corpus, from the command line.

The result goes to stdout as a line of JSON, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 130
interrupted.
"""

import sys
from collections.abc import Sequence

from cde_retriever.cli import doctor, embed, explore, export, migrate, refit, serve, verify, wrap
from cde_retriever.cli.command_line import CommandLine

COMMANDS = {
    "doctor": doctor,
    "embed": embed,
    "explore": explore,
    "export": export,
    "wrap": wrap,
    "refit": refit,
    "migrate": migrate,
    "serve": serve,
    "verify": verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return program().main(arguments)


def program() -> CommandLine:
    """Return the program with all its commands."""
    assert __doc__ is not None
    made = CommandLine("cde", __doc__)
    for command in COMMANDS.values():
        command.add_command(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
