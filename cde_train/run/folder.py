"""The folder of a run: which run it belongs to, which steps are done, and that their files are as they were left.

    OUT/run.toml              the resolved configuration
    OUT/work/manifest.json    hash of the data; each finished step with its report and the sha256 of its files
    OUT/work/...              the files of the steps

A step counts once the manifest names it, and the manifest is replaced after the step's files are whole. A killed run
does the step again that it was in; steps that take long (embedding, training) keep their own progress inside.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from cde_retriever.context.context import hash_text
from cde_retriever.errors import ConfigError
from cde_retriever.files.hashing import files_of, hash_file
from cde_retriever.files.replacing import write_atomically
from cde_train.errors import ArtifactError
from cde_train.run.config import differences, load_run_config, to_toml
from cde_train.run.sections import RunConfig

FORMAT_VERSION = 1
CONFIG_NAME, WORK_NAME, MANIFEST_NAME = "run.toml", "work", "manifest.json"
Report = dict[str, Any]


class RunFolder:
    """One run's folder; `claim` comes first.

    Args:
        output: The folder.
        say: Told what each step did.
        one_at_a_time: Makes a context that the first of several processes enters alone, the others after it.
    """

    def __init__(
        self,
        output: Path,
        say: Callable[[str], None],
        one_at_a_time: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.output = output
        self.work = output / WORK_NAME
        self.manifest = self.work / MANIFEST_NAME
        self.say = say
        self.one_at_a_time = one_at_a_time

    def claim(self, config: RunConfig, data: Sequence[Path]) -> None:
        """Make the folder this run's, or see that it is.

        Raises:
            ArtifactError: if it belongs to another configuration or other data, or holds something else; says what.
        """
        for path in data:
            if self.output.resolve().is_relative_to(path.resolve()):
                raise ConfigError(f"the output {self.output} lies inside the data {path}; choose a folder outside")
        with self.one_at_a_time():
            names, content = [str(path) for path in data], hash_text("".join(map(hash_files, data)))
            if not self.manifest.exists():
                self._start(config, names, content)
                return
            values = self._read()
            if values["data"] != content:
                raise ArtifactError(
                    f"{self.output} belongs to a run on other data ({', '.join(values['from'])} then, hash "
                    f"{values['data'][:12]}; {', '.join(names)} now, hash {content[:12]}); choose another output, or "
                    f"delete {self.output}"
                )
            self._check_configuration(config)

    def _start(self, config: RunConfig, names: list[str], content: str) -> None:
        known = (WORK_NAME, CONFIG_NAME, f".{CONFIG_NAME}.")  # the last from a process killed while writing it
        if self.output.exists() and any(not path.name.startswith(known) for path in self.output.iterdir()):
            raise ArtifactError(f"{self.output} holds files that are not of a run; choose a new folder as output")
        self.work.mkdir(parents=True, exist_ok=True)
        write_atomically(self.output / CONFIG_NAME, to_toml(config).encode())
        self._write({"format_version": FORMAT_VERSION, "from": names, "data": content, "steps": {}})

    def _check_configuration(self, config: RunConfig) -> None:
        file = self.output / CONFIG_NAME
        try:
            theirs = load_run_config(file)
        except (ValueError, OSError) as error:
            raise ArtifactError(f"{file} is damaged ({error}); delete {self.output} to start afresh") from error
        other = differences(config, theirs)
        if other:
            raise ArtifactError(
                f"{self.output} belongs to a run with another configuration: {'; '.join(other)}. Choose another "
                f"output, or go on with its own: --config {file}"
            )

    def done(self, name: str) -> Report | None:
        """Return a finished step's report, None if it is not finished.

        Raises:
            ArtifactError: if one of its files is gone or has changed since; names it.
        """
        step = self._read()["steps"].get(name)
        if step is None:
            return None
        for file, sha256 in step["files"].items():
            path = self.work / file
            if not path.is_file() or hash_file(path) != sha256:
                fault = "has changed since" if path.is_file() else "is gone since"
                raise ArtifactError(
                    f"{path} {fault} step {name!r} wrote it; restore it, or delete {self.output} to start afresh"
                )
        report: Report = step["report"]
        return report

    def step(self, name: str, files: Sequence[str], do: Callable[[], Report]) -> Report:
        """Do a step unless it is done.

        Args:
            name: Its name, unique in the run.
            files: What it leaves behind, files or folders inside the work folder.
            do: Does it and returns its report.
        """
        with self.one_at_a_time():
            report = self.done(name)
            if report is not None:
                self.say(f"{name}: done already")
                return report
            report = do()
            self.finish(name, files, report)
        return report

    def finish(self, name: str, files: Sequence[str], report: Report) -> None:
        """Record a step as done."""
        hashes = {
            str(path.relative_to(self.work)): hash_file(path) for file in files for path in files_of(self.work / file)
        }
        values = self._read()
        values["steps"][name] = {"files": hashes, "report": report}
        self._write(values)
        self.say(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in report.items()))

    def _read(self) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))
            version = values["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self.manifest} is damaged ({error!r}); delete {self.output} to start afresh"
            ) from error
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{self.manifest} has format {version!r}, this version reads {FORMAT_VERSION}; choose another output"
            )
        return values

    def _write(self, values: dict[str, Any]) -> None:
        write_atomically(self.manifest, (json.dumps(values, indent=2) + "\n").encode())


def hash_files(path: Path) -> str:
    """Return the sha256 over names and contents of a file, or of all files in a folder.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give pairs, or a folder of documents")
    digest = hashlib.sha256()
    for file in files_of(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
