"""Hold training pairs: a query, the document that answers it, and their domain."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPair:
    """One query, its document, the domain whose corpus the document belongs to, and hard negatives if there are any."""

    query: str
    document: str
    domain: str
    negatives: tuple[str, ...] = ()


def by_domain(pairs: Iterable[TrainingPair]) -> dict[str, list[TrainingPair]]:
    """Group pairs by domain, domains in alphabetical order."""
    groups: dict[str, list[TrainingPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.domain].append(pair)
    return dict(sorted(groups.items()))
