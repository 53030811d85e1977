"""Check whether an evaluation query or document is among the training texts.

Texts are compared as sequences of lower-case alphanumeric words. A training pair is contaminated if

- its query or document is, whole, an evaluation query (``query``) or an evaluation document of at least four words
  (``document``; shorter ones are headings such as "Examples"), or
- at least 10 % of its document's distinct 13-grams are in one evaluation document (``overlap``; 13 as in GPT-3,
  Brown et al. 2020, appendix C).

One pass over the pairs, time linear in their words; memory grows with the evaluation sets only (12 bytes a word).
13-grams are compared by 64-bit hash; a false match needs a collision, about one in 10^5 runs of this size, and a
tenth of a document's 13-grams would have to collide at once.

    python -m cde_train.data.decontamination PAIRS EVAL
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from cde_retriever.progress import progress
from cde_retriever.words.pieces import comparable
from cde_train.data.near_copies import Grams
from cde_train.data.pairs import TrainingPair
from cde_train.data.readers import read_pairs
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets, read_retrieval_set

THRESHOLD = 0.10
LEAST_WORDS = {"query": 1, "document": 4}
KINDS = ("query", "document", "overlap")


@dataclass(frozen=True)
class Leak:
    """A contaminated training pair.

    Attributes:
        kind: ``"query"``, ``"document"`` or ``"overlap"``.
        evaluation_set: Name of the set it touches.
        evaluation_id: Id of the query or document in it.
        pair: Number of the training pair, from 0.
        domain: Its domain.
        text: Beginning of the training text.
        share: Share of the document's 13-grams that are in the evaluation document; 1 for whole texts.
    """

    kind: str
    evaluation_set: str
    evaluation_id: str
    pair: int
    domain: str
    text: str
    share: float


@dataclass
class Report:
    """What a check found.

    Attributes:
        pairs: Training pairs read.
        contaminated: Pairs with at least one leak.
        counts: Set name to kind to number of pairs.
        domains: Contaminated pairs by training domain.
        examples: The first leaks of each set and kind.
    """

    pairs: int = 0
    contaminated: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    examples: list[Leak] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.contaminated == 0

    def add(self, leaks: Sequence[Leak], keep: int) -> None:
        """Count one pair's leaks, one for each set and kind, and keep the first of them as examples."""
        for leak in leaks:
            counts = self.counts[leak.evaluation_set]
            counts[leak.kind] += 1
            if counts[leak.kind] <= keep:
                self.examples.append(leak)
        if leaks:
            self.contaminated += 1
            self.domains[leaks[0].domain] = self.domains.get(leaks[0].domain, 0) + 1


class Detector:
    """The evaluation sets, indexed.

    Args:
        sets: The sets no training text may come from.
        threshold: Least share of a training document's 13-grams in one evaluation document.
    """

    def __init__(self, sets: Iterable[RetrievalSet], threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self.names: list[str] = []
        self._grams = Grams()
        self._whole: dict[str, list[tuple[str, str, str]]] = {}
        self._documents: list[tuple[str, str]] = []
        grams = []
        for data in sets:
            self.names.append(data.name)
            for query, text in zip(data.query_ids, data.queries, strict=True):
                self._add_whole(text, ("query", data.name, query))
            for document, text in zip(data.document_ids, data.documents, strict=True):
                self._add_whole(text, ("document", data.name, document))
                grams.append(self._grams(comparable(text)))
                self._documents.append((data.name, document))
        owners = np.repeat(np.arange(len(grams), dtype=np.int32), [len(row) for row in grams])
        everything = np.concatenate([*grams, np.zeros(0, np.uint64)])
        order = np.argsort(everything, kind="stable")
        self._sorted, self._owners = everything[order], owners[order]

    def _add_whole(self, text: str, what: tuple[str, str, str]) -> None:
        words = comparable(text)
        if len(words) >= LEAST_WORDS[what[0]]:
            self._whole.setdefault(" ".join(words), []).append(what)

    def check(self, number: int, pair: TrainingPair) -> list[Leak]:
        """Return the leaks of one pair, at most one for each set and kind."""
        found: dict[tuple[str, str], Leak] = {}
        words = comparable(pair.document)
        for text, key in ((pair.query, " ".join(comparable(pair.query))), (pair.document, " ".join(words))):
            for kind, name, identifier in self._whole.get(key, ()):
                leak = Leak(kind, name, identifier, number, pair.domain, text[:200], 1.0)
                found.setdefault((name, kind), leak)
        for document, share in self._overlaps(words):
            name, identifier = self._documents[document]
            leak = Leak("overlap", name, identifier, number, pair.domain, pair.document[:200], round(share, 3))
            found.setdefault((name, "overlap"), leak)
        return list(found.values())

    def _overlaps(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Return evaluation documents with enough of a text's 13-grams and their share, largest first."""
        grams = self._grams(words)
        left = np.searchsorted(self._sorted, grams, "left")
        right = np.searchsorted(self._sorted, grams, "right")
        hits = [self._owners[a:b] for a, b in zip(left, right, strict=True) if a < b]
        if not hits:
            return []
        documents, counts = np.unique(np.concatenate(hits), return_counts=True)
        shares = counts / len(grams)
        order = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= self.threshold]
        return [(int(documents[i]), float(shares[i])) for i in order]


def check_pairs(pairs: Iterable[TrainingPair], detector: Detector, *, examples: int = 5) -> Report:
    """Check training pairs, one pass.

    Args:
        pairs: The pairs; any iterable.
        detector: The indexed evaluation sets.
        examples: How many leaks of each set and kind to keep in the report.
    """
    report = Report(counts={name: dict.fromkeys(KINDS, 0) for name in detector.names})
    for number, pair in enumerate(pairs):
        report.pairs += 1
        report.add(detector.check(number, pair), examples)
    return report


def stream_pairs(path: Path) -> Iterator[TrainingPair]:
    """Read pairs from a file, or from each file of a folder in turn, one file in memory at a time."""
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    for file in files or [path]:
        yield from read_pairs(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check pairs against evaluation sets; 0 if nothing was found, 1 if something was."""
    parser = argparse.ArgumentParser(
        prog="python -m cde_train.data.decontamination", description=__doc__.splitlines()[0]
    )
    parser.add_argument("pairs", type=Path, help="pairs file (.jsonl, .jsonl.gz) or folder of such")
    parser.add_argument("eval", type=Path, help="a retrieval set's folder, or a folder of them")
    options = parser.parse_args(arguments)
    sets = [read_retrieval_set(folder) for folder in find_retrieval_sets(options.eval)]
    report = check_pairs(progress(stream_pairs(options.pairs), label="Checking", unit="pair"), Detector(sets))
    print(json.dumps(asdict(report), indent=2))  # noqa: T201 - the command's result
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
