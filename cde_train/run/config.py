"""Read a run from one TOML file and ``--set`` overrides, and report all faults at once.

A section is the settings dataclass of the module that does the work, so each setting is defined once. Faults are
collected over the whole file and named as on the command line (``phase.0.learning_rate``). Reading a configuration
loads neither torch nor transformers.

    [model]                 start: cde-minilm-l6-v4, CDE checkpoint or plain encoder
    [surrogate]             which encoder judges similarity
    [clustering] [packing]  contextual batching
    [filtering] [negatives] false negatives out, hard negatives in
    [pseudo_queries]        queries for documents that have none
    [held_out]              what the result is judged on
    [[phase]]               one or several, trained one after the other; ``phase = []`` for none
"""

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tomli_w

from cde_retriever.errors import ConfigError
from cde_train.run.sections import (
    OF_THE_PHASE,
    SECTIONS,
    PhaseConfig,
    RunConfig,
    contradictions,
    refuse,
)
from cde_train.settings import Section, read_settings

PRESETS = Path(__file__).parent.parent / "presets"
DEFAULT_PRESET = "default"

_WORD = re.compile(r"\w+")


def load_run_config(source: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's configuration.

    Args:
        source: A TOML file, or the name of a preset; None for the preset ``default``.
        overrides: ``section.key=value`` each, the value as in TOML; one that is not TOML counts as text.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a preset.
        ConfigError: if anything is wrong; names every fault.
    """
    file = find_config(source)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    faults: list[str] = []
    for override in overrides:
        _apply(values, override, faults)
    return parse_run_config(values, faults)


def find_config(source: str | os.PathLike[str] | None) -> Path:
    """Return the file a path or a preset's name stands for.

    Raises:
        FileNotFoundError: if there is neither; names the presets.
    """
    source = DEFAULT_PRESET if source is None else source
    preset = PRESETS / f"{source}.toml"
    if Path(source).is_file():
        return Path(source)
    if os.fspath(source) in preset_names():
        return preset
    raise FileNotFoundError(f"{source} is neither a file nor one of the presets {', '.join(preset_names())}")


def preset_names() -> list[str]:
    """Return the names of the configurations that come with the package."""
    return sorted(file.stem for file in PRESETS.glob("*.toml"))


def parse_run_config(values: Mapping[str, Any], faults: Sequence[str] = ()) -> RunConfig:
    """Make a run of plain values.

    Args:
        values: Sections by name, as `tomllib` reads them.
        faults: What is known to be wrong with them already.

    Raises:
        ConfigError: if anything is wrong; names every fault.
    """
    found = list(faults)
    known = [*SECTIONS, "phase"]
    found += [_unknown(key, "", known) for key in values if key not in known]
    phases = values.get("phase", [{}])
    if not isinstance(phases, list):
        found.append(f"phase is {phases!r}, expected [[phase]] tables, or [] for none")
        phases = [{}]
    unread: set[str] = set()
    sections: dict[str, Any] = {
        name: _parse(section, values.get(name, {}), name, found, unread) for name, section in SECTIONS.items()
    }
    sections["phase"] = tuple(_parse(PhaseConfig, v, f"phase.{i}", found, unread) for i, v in enumerate(phases))
    # A setting that could not be read stands at its default meanwhile; what that default contradicts is no fault.
    found += [fault for fault in contradictions(sections) if not unread & set(_WORD.findall(fault))]
    refuse(found)
    return RunConfig(**sections)


def to_toml(config: RunConfig, used: Collection[str] | None = None) -> str:
    """Return every setting of a run; `load_run_config` makes the same run of it.

    Args:
        config: The run.
        used: Paths of settings; of those outside of phases, others are left out.
    """
    values = asdict(config)
    for section, key in OF_THE_PHASE:
        values[section].pop(key)
    phases = [_name_first(phase) for phase in values.pop("phase")]
    values["model"] = _name_first(values["model"])
    if used is not None:
        names = {tuple(path.split(".")[:2]) for path in used}
        values = {part: {key: v for key, v in own.items() if (part, key) in names} for part, own in values.items()}
    return tomli_w.dumps(_without_none({part: own for part, own in values.items() if own} | {"phase": phases}))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return every single setting of a run by its path, such as ``phase.0.steps``."""
    return dict(_leaves(tomllib.loads(to_toml(config))))


def _parse(section: type[Section], values: Any, path: str, faults: list[str], unread: set[str]) -> Section:
    """Return a section of plain values.

    Args:
        section: Its class.
        values: Its settings; what is wrong with them is left out.
        path: Where it stands in the file.
        faults: Gets what is wrong.
        unread: Gets the names of the settings that were left out.
    """
    if not isinstance(values, Mapping):
        faults.append(f"{path} is {values!r}, expected a table of settings")
        values = {}
    known = [f.name for f in fields(section)]
    for key in values:
        if (path, key) in OF_THE_PHASE:
            faults.append(f"{path}.{key} belongs to the phase; set phase.0.{OF_THE_PHASE[path, key]}")
        elif key not in known:
            faults.append(_unknown(key, f"{path}.", known))
    given = {key: v for key, v in values.items() if key in known and (path, key) not in OF_THE_PHASE}
    for key, default in vars(section()).items():
        if isinstance(default, Mapping) and isinstance(given.get(key), Mapping):
            faults += [_unknown(k, f"{path}.{key}.", list(default)) for k in given[key] if k not in default]
            given[key] = {**default, **{k: v for k, v in given[key].items() if k in default}}
    made, own, wrong = read_settings(section, given)
    faults += [f"{path}.{fault}" for fault in own]
    unread |= wrong
    return made


def _apply(values: dict[str, Any], override: str, faults: list[str]) -> None:
    """Put one ``section.key=value`` into plain values."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        faults.append(f"--set {override!r} is not section.key=value, such as phase.0.steps=500")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place: Any = values
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                at = ".".join(keys[:depth])
                faults.append(f"--set {path}: {at} has {len(place)} entries, from {at}.0 on; there is no {key!r}")
                return
            key = int(key)  # type: ignore[assignment]
        elif not isinstance(place, dict):
            faults.append(f"--set {path}: {'.'.join(keys[:depth])} is a single value and holds no {key!r}")
            return
        elif not last:
            place.setdefault(key, [{}] if key == "phase" else {})
        if last:
            place[key] = value
        else:
            place = place[key]


def _unknown(key: str, prefix: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    return f"{prefix}{key} is unknown; {hint}"


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every single value with its dotted path."""
    items: Any = (
        values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else None
    )
    if items is None:
        yield path, values
    else:
        for key, value in items:
            yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _name_first(values: dict[str, Any]) -> dict[str, Any]:
    first = {key: values[key] for key in ("name", "base", "data") if key in values}
    return first | values


def _without_none(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_none(value) for key, value in values.items() if value is not None}
    return [_without_none(value) for value in values] if isinstance(values, list | tuple) else values
