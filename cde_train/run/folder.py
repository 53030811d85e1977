"""Record in a run's folder which steps are done and by which settings, and verify their files.

    OUT/run.toml              the resolved configuration
    OUT/work/manifest.json    hash of the data; each finished step with its report, its seconds, the sha256 of its
                              files, and the settings it used; what the run ran on
    OUT/work/...              the files of the steps

A step counts once the manifest names it, and the manifest is replaced after the step's files are whole. A killed run
does the step again that it was in; steps that take long (embedding, training) keep their own progress inside.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

from cde_retriever.context.sampling import hash_text
from cde_retriever.errors import ConfigError
from cde_retriever.files.hashing import files_of, hash_file
from cde_retriever.files.locking import only_writer
from cde_retriever.files.records import RecordFormat
from cde_retriever.files.replacing import write_atomically
from cde_train.errors import ArtifactError
from cde_train.run.base import resolve
from cde_train.run.config import load_run_config, settings_of, to_toml
from cde_train.run.sections import RunConfig

CONFIG_NAME, WORK_NAME, MANIFEST_NAME = "run.toml", "work", "manifest.json"
START, MODEL, REPORT_FOLDER = "start", "model", "report"
"""Folders of the work folder that every run has, or gets with a phase of its own."""
Report = dict[str, Any]
SENTENCES = ("advice", "verdicts")
"""What of a report is a sentence, or several."""
SettingsByPath = dict[str, Any]
"""Every single setting by its path, such as ``phase.0.steps``."""


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
        self._format = RecordFormat(1, ArtifactError, f"choose another output, or delete {output} to start afresh")
        self.say = say
        self.one_at_a_time = one_at_a_time
        self.settings: SettingsByPath = {}

    @contextmanager
    def claim(
        self, config: RunConfig, data: Sequence[Path], environment: Mapping[str, str] | None = None, first: bool = True
    ) -> Iterator[None]:
        """Make the folder this run's, or see that it is, and keep other starts of it from working while this is held.

        Args:
            config: The run.
            data: Files and folders it reads.
            environment: What it runs on; kept where it differs from that of the start before.
            first: Whether this is the first of its processes, which keeps other starts away.

        Raises:
            ArtifactError: if it belongs to another configuration or other data, or holds something else; says what.
            OSError: if another start of it is at work; what that one has written stays as it is.
        """
        for path in data:
            if self.output.resolve().is_relative_to(path.resolve()):
                raise ConfigError(f"the output {self.output} lies inside the data {path}; choose a folder outside")
        content = hash_text("".join(map(hash_files, data)))
        self._refuse_other_files()
        with only_writer(self.work) if first else nullcontext():
            with self.one_at_a_time():
                self._record(config, [str(path) for path in data], content, environment)
            yield

    def _refuse_other_files(self) -> None:
        there = self.output.iterdir() if self.output.exists() and not self.manifest.exists() else ()
        others = {path.name for path in there} - {WORK_NAME, CONFIG_NAME}
        if any(not name.startswith(f".{CONFIG_NAME}.") for name in others):  # from a process killed while writing it
            raise ArtifactError(f"{self.output} holds files that are not of a run; choose a new folder as output")

    def _record(self, config: RunConfig, names: list[str], content: str, environment: Mapping[str, str] | None) -> None:
        """Write down what this start runs, given names and hash of its data; refuse changes of what was used."""
        self.settings = _used(config, content)
        steps, environments, theirs = {}, [], None
        if self.manifest.exists():
            values = self._read()
            steps, theirs = values["steps"], _used(self._stored_config(), values["data"])
            self._refuse_changes(steps, theirs, f"{', '.join(values['from'])} then, {', '.join(names)} now")
            environments = values.get("environments", [])
        new = [dict(environment)] if environment and environments[-1:] != [environment] else []
        if new or theirs != self.settings:
            write_atomically(self.output / CONFIG_NAME, to_toml(config).encode())
            self._write({"from": names, "data": content, "steps": steps, "environments": environments + new})

    def _stored_config(self) -> RunConfig:
        file = self.output / CONFIG_NAME
        try:
            return resolve(load_run_config(file))
        except (ValueError, OSError) as error:
            raise ArtifactError(f"{file} is damaged ({error}); delete {self.output} to start afresh") from error

    def _refuse_changes(self, steps: dict[str, Any], theirs: SettingsByPath, sources: str) -> None:
        """Refuse settings, or data, other than those that a finished step has used."""
        used = [(name, path, value) for name in steps for path, value in steps[name].get("settings", theirs).items()]
        other = {path: (name, value) for name, path, value in used if self.settings.get(path) != value}
        if "data" in other:
            raise ArtifactError(
                f"{self.output} belongs to a run on other data ({sources}; hash {other['data'][1][:12]} then, "
                f"{self.settings['data'][:12]} now); choose another output, or delete {self.output}"
            )
        if other:
            changes = "; ".join(
                f"{path} is {self.settings.get(path)!r} here, {value!r} there, where step {name!r} used it"
                for path, (name, value) in sorted(other.items())
            )
            raise ArtifactError(
                f"{self.output} belongs to a run with another configuration: {changes}. Choose another output, or go "
                f"on with its own: --config {self.output / CONFIG_NAME}"
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

    def reports(self) -> dict[str, Report]:
        """Return what the finished steps report, by name, in the order they were done; their files are not compared."""
        return {name: step["report"] for name, step in self._read()["steps"].items()}

    def used(self) -> set[str]:
        """Return the paths of the settings that the finished steps used."""
        return {path for step in self._read()["steps"].values() for path in step.get("settings", self.settings)}

    def seconds(self) -> dict[str, float]:
        """Return how long the finished steps took, of those that say so."""
        return {name: step["seconds"] for name, step in self._read()["steps"].items() if "seconds" in step}

    def environments(self) -> list[dict[str, str]]:
        """Return what the run ran on, one for each change; none if it was begun before that was kept."""
        environments: list[dict[str, str]] = self._read().get("environments", [])
        return environments

    def step(
        self,
        name: str,
        files: Sequence[str],
        do: Callable[[], Report],
        *,
        uses: Sequence[str] = (),
        together: bool = False,
    ) -> Report:
        """Do a step unless it is done.

        Args:
            name: Its name, unique in the run.
            files: What it leaves behind, files or folders inside the work folder.
            do: Does it and returns its report.
            uses: Settings, or sections of them, that its result depends on and earlier steps have not used; a run may
                go on with another value of any setting that no finished step has used. ``"data"`` stands for the data.
            together: Whether all processes do it at once; otherwise the first one does it.
        """
        with nullcontext() if together else self.one_at_a_time():
            report = self.done(name)
            if report is not None:
                self.say(f"{name}: done already")
                return report
            began = perf_counter()
            report = do()
            seconds = perf_counter() - began
            with self.one_at_a_time() if together else nullcontext():
                if self.done(name) is None:
                    self._finish(name, files, report, uses, seconds)
        return report

    def _finish(self, name: str, files: Sequence[str], report: Report, uses: Sequence[str], seconds: float) -> None:
        hashes = {
            str(path.relative_to(self.work)): hash_file(path) for file in files for path in files_of(self.work / file)
        }
        used = {
            path: value
            for path, value in self.settings.items()
            if any(path == use or path.startswith(f"{use}.") for use in uses)
        }
        values = self._read()
        values["steps"][name] = {"files": hashes, "report": report, "settings": used, "seconds": round(seconds, 3)}
        self._write(values)
        self.say(_told(name, report))

    def _read(self) -> dict[str, Any]:
        try:
            values = self._format.read(self.manifest)
        except OSError as error:
            raise ArtifactError(f"cannot read {self.manifest} ({error}); {self._format.remedy}") from error
        with self._format.reading(self.manifest):
            for name, step in values["steps"].items():
                if not {"files", "report"} <= step.keys():
                    raise ValueError(f"step {name!r} lacks its files or report")
        return values

    def _write(self, values: dict[str, Any]) -> None:
        self._format.write(self.manifest, values)


def _used(config: RunConfig, data: str) -> SettingsByPath:
    """Return what the steps of a run can depend on."""
    measures = any(phase.eval_steps for phase in config.phase)
    return settings_of(config) | {"data": data, "phase.*.eval_steps above 0": measures}


def hash_files(path: Path) -> str:
    """Return the sha256 over names and contents of a file, or of all files in a folder but hidden ones.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give pairs, or a folder of documents")
    digest = hashlib.sha256()
    for file in files_of(path):
        place = file.relative_to(path)
        if not any(part.startswith(".") for part in place.parts):  # no reader opens them, and a .git is never the same
            digest.update(f"{place.as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def _told(name: str, report: Report) -> str:
    """Return what a step reports: its figures in one line, then every sentence in a line of its own."""
    figures = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in report.items() if key not in SENTENCES]
    found = [report[key] for key in SENTENCES if key in report]
    sentences = [line for value in found for line in ([value] if isinstance(value, str) else value)]
    return "\n  ".join([f"{name}: {', '.join(figures)}", *sentences])


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_short(one)}" for key, one in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
