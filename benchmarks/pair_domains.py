"""Group training pairs by the corpus that they belong to."""

from collections import defaultdict
from collections.abc import Iterable

from cde_train.data.pairs import TrainingPair


def by_domain(pairs: Iterable[TrainingPair]) -> dict[str, list[TrainingPair]]:
    """Group pairs by domain, domains in alphabetical order."""
    groups: dict[str, list[TrainingPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.domain].append(pair)
    return dict(sorted(groups.items()))
