"""A few dozen real documents for the examples: docstrings of some modules of the Python standard library."""

import sysconfig
from pathlib import Path

from examples.stdlib_docstrings import MIN_CHARACTERS, docstrings

MODULES = ("zipfile", "csv", "sched", "heapq", "calendar")
MOST_CHARACTERS = 700  # so that the bundled model reads each whole


def few_docstrings(*modules: str) -> dict[str, str]:
    """Return the docstrings of modules (by default `MODULES`) by qualified name, very short and long ones left out."""
    found = {}
    for module in modules or MODULES:
        place = Path(sysconfig.get_path("stdlib")) / module
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        for name, text in docstrings(file, module):
            if MIN_CHARACTERS <= len(text) <= MOST_CHARACTERS:
                found[name] = f"{name}\n{text}"
    return found
