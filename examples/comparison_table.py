"""Three rankings side by side, as text for a terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

HEADINGS = ("backbone", "0.4 BM25 + 0.6 backbone", "ours, the corpus as context")
LEGEND = (
    "*  under ours: neither other column has it in its top results; under the others: ours does not have it\n"
    "~  ours has it at another rank"
)


@dataclass(frozen=True)
class Comparison:
    """One question and what each side found, best first."""

    question: str
    plain: Sequence[str]
    mixture: Sequence[str]
    ours: Sequence[str]

    @property
    def columns(self) -> tuple[Sequence[str], ...]:
        """The rankings, in the order of `HEADINGS`."""
        return self.plain, self.mixture, self.ours


def mark(names: Sequence[str], ours: Sequence[str], rank: int) -> str:
    """Return ``*`` for a name that ours lacks, ``~`` for one that ours has at another rank, else a space."""
    if rank >= len(names):
        return " "
    if names[rank] not in ours:
        return "*"
    return " " if ours.index(names[rank]) == rank else "~"


def own_mark(comparison: Comparison, rank: int) -> str:
    """Return ``*`` for a name of ours that no other side has, else a space."""
    known = {*comparison.plain, *comparison.mixture}
    return "*" if rank < len(comparison.ours) and comparison.ours[rank] not in known else " "


def render(comparison: Comparison, width: int = 100) -> str:
    """Return a comparison as lines of at most `width` characters; what is too long is cut at its beginning."""
    column = max(16, (width - 15) // 3)
    lines = [textwrap.shorten(comparison.question, width, placeholder=" ...")]
    lines.append("     " + "   ".join(f"{heading[:column]:<{column + 2}}" for heading in HEADINGS).rstrip())
    for rank in range(max(map(len, comparison.columns))):
        marks = [mark(names, comparison.ours, rank) for names in comparison.columns[:2]]
        marks.append(own_mark(comparison, rank))
        cells = [
            f"{sign} {cell(names, rank, column):<{column}}"
            for sign, names in zip(marks, comparison.columns, strict=True)
        ]
        lines.append(f" {rank + 1} {' | '.join(cells)}".rstrip())
    return "\n".join(lines)


def cell(names: Sequence[str], rank: int, width: int) -> str:
    """Return the name at a rank, shortened to its end, which tells most."""
    name = " ".join(names[rank].split()) if rank < len(names) else ""
    return name if len(name) <= width else "..." + name[3 - width :]


def count_differences(comparisons: Sequence[Comparison], top: int) -> str:
    """Say in how many questions each pair of columns differs, and in how many in the first result."""
    pairs = (
        ("ours", "the backbone", 2, 0),
        ("ours", "BM25 + backbone", 2, 1),
        ("BM25 + backbone", "the backbone", 1, 0),
    )
    lines = []
    for name, other, one, two in pairs:
        rankings = [(list(c.columns[one]), list(c.columns[two])) for c in comparisons]
        differ = sum(a != b for a, b in rankings)
        first = sum(a[:1] != b[:1] for a, b in rankings)
        lines.append(
            f"{name} differs from {other} in {differ} of {len(rankings)} questions, in the first result in {first}"
        )
    return f"Top {top}: " + "; ".join(lines) + "."
