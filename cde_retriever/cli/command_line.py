"""Run the commands of `cde` and `cde-train`: help, exit codes, messages on stderr, results as JSON lines on stdout."""

import argparse
import errno
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from cde_retriever.errors import CDEError, ConfigError
from cde_retriever.files.full_disk import DiskError, disk_error

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
Run = Callable[[argparse.Namespace], object]


class CommandLine:
    """A program made of commands.

    Args:
        name: Name of the program.
        description: What it does; a first paragraph, and what stands below the list of commands in its help.
        failures: Exceptions that end a command with their message, besides those of this package, `ValueError` and
            `OSError`; all others are bugs and show a traceback.
        extra: What to install if a package is missing, as ``pip`` takes it; None where the message says it already.
    """

    def __init__(
        self,
        name: str,
        description: str,
        *,
        failures: tuple[type[Exception], ...] = (),
        extra: str | None = None,
    ) -> None:
        self.name, self.extra = name, extra
        self.failures: tuple[type[Exception], ...] = (CDEError, ValueError, OSError, *failures)
        summary, _, rest = description.partition("\n\n")
        self.parser = argparse.ArgumentParser(
            prog=name, description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.parser.add_argument(
            "--version",
            action="version",
            version=f"{name} {version('cde-retriever')}",
            help="show the version and exit",
        )
        self._commands: Any = self.parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        summary: str,
        run: Run,
        examples: str,
        *,
        continues: bool = False,
        extra: str | None = None,
    ) -> argparse.ArgumentParser:
        """Add a command and return its parser, to which its options are added.

        Args:
            name: What the user types.
            summary: What it does, in one sentence.
            run: Runs it with the options.
            examples: Lines of a shell, shown below the options.
            continues: Whether the same command goes on where an interrupted one stopped; a command for which options
                decide sets `options.continues`.
            extra: As for the program, if that differs.
        """
        command: argparse.ArgumentParser = self._commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog="examples:\n" + examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", help="show a traceback when the command fails")
        command.set_defaults(run=run, continues=continues, extra=extra or self.extra)
        return command

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command and return its exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
        try:
            options = self.parser.parse_args(arguments)
        except SystemExit as done:  # argparse has said what there is to say
            return int(done.code or 0)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _Warnings().say
                options.run(options)
        except KeyboardInterrupt:
            _close_bars()
            again = "continues where it stopped" if options.continues else "starts from the beginning"
            say(f"interrupted; run the same command again: it {again}")
            return INTERRUPTED
        except (ConfigError, FileNotFoundError) as error:
            return self._fail(error, options, WRONG_USE)
        except ImportError as error:
            if (error.name or "").startswith("cde_"):
                raise
            return self._fail(_missing(error, options.extra), options, FAILED)
        except self.failures as error:
            return self._fail(error, options, FAILED)
        return 0

    def _fail(self, error: Exception, options: argparse.Namespace, code: int) -> int:
        if options.debug:
            raise error
        _close_bars()
        say(f"{self.name} {options.command}: {_in_words(error)}")
        return code


def _missing(error: ImportError, extra: str | None) -> ImportError:
    """Return the error of a missing package with all that a command needs, in place of the package's own hint."""
    if extra is None:
        return error
    missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    return ImportError(f'{missing}; this command needs: pip install "{extra}"')


def _close_bars() -> None:
    from cde_retriever.progress import close_all  # help and most commands show no bar, and start sooner

    close_all()


def _in_words(error: Exception) -> str:
    """Return an error's message; of one that the system raised about a file the file first, then what to do."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    error = disk_error(error) or error
    place = "" if error.filename is None else f"{error.filename}: "
    if not place and not isinstance(error, DiskError):
        return str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{place}{os.strerror(error.errno)}; choose another place, or change who may read and write there"
    return f"{place}{error.strerror}"


class _Warnings:
    """What was warned of, each said once."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def say(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Say what a warning says, without the line of code that it comes from."""
        if str(message) not in self.said:
            self.said.add(str(message))
            say(f"warning: {message}")


def say(message: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def write_result(values: Mapping[str, Any]) -> None:
    """Write a result to stdout, as one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
