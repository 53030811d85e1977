"""`cde`: contextual embeddings from the command line.

    cde doctor CORPUS -o OUT     tell what context is worth on a corpus, and which setting to take
    cde embed CORPUS -o OUT      embed a corpus of any size into files of vectors, resumably
    cde explore INDEX            see what an index finds, under its context and without, and why
    cde export [MODEL] -o OUT    write a model as ONNX graphs that run without PyTorch
    cde wrap MODEL -o OUT        write any encoder as a checkpoint that knows its corpus
    cde refit INDEX              embed an index again under a context of the documents that it holds now
    cde migrate OLD -o NEW       make an index that knows its corpus of one that another embedding built
    cde serve CONTEXT            serve vectors over HTTP in OpenAI's format
    cde verify MODEL             tell which network the authors' released weights belong to

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
