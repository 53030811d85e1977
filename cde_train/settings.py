"""Check settings by the types of their fields, and report all faults at once.

A field says in its annotation what it may be, such as ``steps: AtLeast0 = 0``, and pydantic checks it; a list may stand
for a tuple, nothing else is converted. What contradicts itself inside a section is said by its `contradictions`. Every
fault is a sentence that begins with the setting's name.
"""

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from cde_retriever.errors import ConfigError

AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
AtLeast2 = Annotated[int, Field(ge=2)]
AtLeast3 = Annotated[int, Field(ge=3)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
OpenShare = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Cosine = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

EXPECTED = {
    "greater_than_equal": "expected at least {ge:g}",
    "greater_than": "expected more than {gt:g}",
    "less_than_equal": "expected at most {le:.12g}",
    "less_than": "expected less than {lt:g}",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
}
"""What a kind of fault is called here; pydantic's own words serve for the others."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Settings:
    """A section of settings.

    Raises:
        ConfigError: if a value is of another type or out of range, or values contradict each other; names every fault.
    """

    def __post_init__(self) -> None:
        """Check the values; a list that stands for a tuple becomes one."""
        checked, faults, _ = read_settings(type(self), vars(self))
        if faults:
            raise ConfigError("; ".join(faults), faults)
        vars(self).update(vars(checked))

    def contradictions(self) -> Iterator[str]:
        """Yield what is wrong between values that are each as their types say."""
        yield from ()


Section = TypeVar("Section", bound=Settings)


def read_settings(section: type[Section], values: Mapping[str, Any]) -> tuple[Section, list[str], set[str]]:
    """Return a section of plain values, its faults, and the names of the settings that could not be read.

    A setting that could not be read stands at its default; what that default contradicts is no fault.
    """
    read = {f.name: _default(f) for f in fields(section)}
    faults: list[str] = []
    unread: set[str] = set()
    for name in [name for name in read if name in values]:
        try:
            # In JSON, because only there does pydantic's strict mode take an array for a tuple.
            value = json.dumps(values[name], default=repr)
            read[name] = _adapters(cast(Hashable, section))[name].validate_json(value, strict=True)
        except ValidationError as error:
            faults += [_sentence(name, fault) for fault in error.errors(include_url=False)]
            unread.add(name)
    made = object.__new__(section)
    vars(made).update(read)
    faults += [fault for fault in made.contradictions() if not unread & set(_WORD.findall(fault))]
    return made, faults, unread


@cache
def _adapters(section: Hashable) -> dict[str, TypeAdapter[Any]]:
    """Return what checks the values of each field."""
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(section, include_extras=True).items()}


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _sentence(name: str, fault: Mapping[str, Any]) -> str:
    """Return one of pydantic's faults in our words."""
    where = ".".join(str(part) for part in (name, *fault["loc"]))
    if fault["type"] == "missing":
        return f"{where} is missing"
    own = f"but {str(fault['msg']).removeprefix('Input ')}"
    return f"{where} is {fault['input']!r}, {EXPECTED.get(fault['type'], own).format(**fault.get('ctx', {}))}"
