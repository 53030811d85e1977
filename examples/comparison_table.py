"""Two rankings side by side, as text for a terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

HEADINGS = ("with the corpus as context", "same backbone, no context")
LEGEND = "*  the other side does not have it in its top results    ~  the other side has it at another rank"


@dataclass(frozen=True)
class Comparison:
    """One question and what either side found, best first."""

    question: str
    contextual: Sequence[str]
    plain: Sequence[str]

    @property
    def differs(self) -> bool:
        """Whether the rankings are not the same."""
        return list(self.contextual) != list(self.plain)

    @property
    def first_differs(self) -> bool:
        """Whether they do not agree on the best result."""
        return list(self.contextual[:1]) != list(self.plain[:1])


def mark(names: Sequence[str], others: Sequence[str], rank: int) -> str:
    """Return ``*`` for a name the others lack, ``~`` for one they have at another rank, else a space."""
    if rank >= len(names):
        return " "
    if names[rank] not in others:
        return "*"
    return " " if others.index(names[rank]) == rank else "~"


def render(comparison: Comparison, width: int = 100) -> str:
    """Return a comparison as lines of at most `width` characters; what is too long is cut at its beginning."""
    column = max(20, (width - 11) // 2)
    lines = [textwrap.shorten(comparison.question, width, placeholder=" ...")]
    lines.append(f"     {HEADINGS[0]:<{column}}   {HEADINGS[1]}")
    for rank in range(max(len(comparison.contextual), len(comparison.plain))):
        sides = (comparison.contextual, comparison.plain), (comparison.plain, comparison.contextual)
        cells = [f"{mark(own, other, rank)} {cell(own, rank, column):<{column}}" for own, other in sides]
        lines.append(f" {rank + 1} {cells[0]} | {cells[1]}".rstrip())
    return "\n".join(lines)


def cell(names: Sequence[str], rank: int, width: int) -> str:
    """Return the name at a rank, shortened to its end, which tells most."""
    name = " ".join(names[rank].split()) if rank < len(names) else ""
    return name if len(name) <= width else "..." + name[3 - width :]
