"""`PartsIndex`: search documents in two parts exactly, in memory, while they come and go.

    index = PartsIndex(encoder.context.fingerprint)
    index.add(["a", "b"], encoder.encode_documents(texts, parts="both"))
    index.search(encoder.encode_queries(["a question"], parts="both"), 10)

Every document is scored, so the ranking is that of `cde_retriever.search.hybrid`. For stores that have no sparse
vectors of their own.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cde_retriever.context.blas_threads import one_blas_thread
from cde_retriever.context.knowledge import Parts
from cde_retriever.errors import ConfigError
from cde_retriever.files.forking import ThreadLock
from cde_retriever.search.best_first import best_first
from cde_retriever.search.segment import LARGEST, Segment
from cde_retriever.words.sparse import Sparse

FEW = 65_536
"""Documents up to which a search by one thread takes less than others would cost the next query's forward."""

MODES = ("hybrid", "dense", "sparse")


class Hit(NamedTuple):
    """A document that was found."""

    id: str
    score: float


class PartsIndex:
    """Documents in two parts, of one context. Safe to use from several threads.

    Args:
        fingerprint: That of the context they are embedded under; queries must be embedded under the same.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._segments: list[Segment] = []
        self._ids: list[str] = []
        self._alive = np.zeros(0, bool)
        self._rows: dict[str, int] = {}
        self._lock = ThreadLock()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, document_id: object) -> bool:
        return document_id in self._rows

    @property
    def ids(self) -> list[str]:
        """The documents' ids, in the order they came."""
        return list(self._rows)

    def add(self, ids: Sequence[str], parts: Parts) -> None:
        """Add documents; one whose id is there takes its place.

        Args:
            ids: One a document.
            parts: From `ContextualEncoder.encode_documents` with ``parts="both"``.

        Raises:
            ValueError: for an id given twice, numbers of ids and vectors that differ, or vectors of another width.
        """
        self._check(ids, parts)
        sparse = Sparse.of_csr(parts.sparse)
        segments = []
        for first in range(0, len(ids), LARGEST):
            rows = np.arange(first, min(first + LARGEST, len(ids)))
            segments.append(Segment.of(np.array(parts.dense[rows], np.float32), sparse.take(rows)))
        self._join(ids, segments)

    def join(self, other: "PartsIndex") -> None:
        """Add the documents of another index of the same context; one whose id is there takes its place.

        Raises:
            ValueError: if its vectors have another width.
        """
        ids, segments = other.content()
        if segments:
            self._check_width(segments[0].dense)
        self._join(ids, segments)

    def _join(self, ids: Sequence[str], segments: Sequence[Segment]) -> None:
        with self._lock:
            self.delete(ids)
            for segment in segments:
                self._append(segment)
            self._rows.update(zip(ids, range(len(self._ids), len(self._ids) + len(ids)), strict=True))
            self._ids += ids
            self._alive = np.concatenate([self._alive, np.ones(len(ids), bool)])

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents; an id that is not there is passed over."""
        with self._lock:
            self._alive[[self._rows.pop(name) for name in ids if name in self._rows]] = False
            if len(self._ids) > 2 * len(self._rows):
                self.compact()

    def search(
        self, query: Parts, count: int, *, mode: str = "hybrid", allowed: Collection[str] | None = None
    ) -> list[Hit]:
        """Return the best documents for one query, best first; of equal scores the earlier comes first.

        Args:
            query: From `ContextualEncoder.encode_queries` with ``parts="both"``, (1, d) and (1, 2**32).
            count: How many; all if there are fewer.
            mode: ``"hybrid"``: the sum of both inner products. ``"dense"`` or ``"sparse"``: one of them; the latter
                finds only documents that share something with the query.
            allowed: Ids of the documents to search; None for all.

        Raises:
            ConfigError: for an unknown mode.
            ValueError: for several queries, another width, or a count below 1.
        """
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}")
        if count < 1 or len(query.dense) != 1:
            raise ValueError(f"count is {count} for {len(query.dense)} queries, expected at least 1 for one query")
        with self._lock:
            self._check_width(query.dense)
            with one_blas_thread() if len(self._ids) <= FEW else nullcontext():
                scores = self._scores(query, mode)
            fit = self._alive.copy()
            if allowed is not None:
                fit[:] = False
                fit[[self._rows[name] for name in allowed if name in self._rows]] = True
            if mode == "sparse":
                fit &= scores > 0
            rows = np.flatnonzero(fit)
            best = rows[best_first(scores[rows], count)]
            return [Hit(self._ids[row], float(scores[row])) for row in best]

    def compact(self) -> None:
        """Forget what was deleted; happens by itself when more than half is."""
        with self._lock:
            if len(self._ids) == len(self._rows):
                return
            old, self._segments, first = self._segments, [], 0
            for segment in old:
                mask = self._alive[first : first + segment.size]
                first += segment.size
                if mask.any():
                    self._append(segment.keep(mask))
            self._ids = list(self._rows)
            self._rows = {name: row for row, name in enumerate(self._ids)}
            self._alive = np.ones(len(self._ids), bool)

    def content(self) -> tuple[list[str], list[Segment]]:
        """Return ids and segments, nothing deleted among them, for `of_content`."""
        with self._lock:
            self.compact()
            return list(self._ids), list(self._segments)

    @classmethod
    def of_content(cls, fingerprint: str, ids: Sequence[str], segments: Sequence[Segment]) -> Self:
        """Make an index of what `content` gave.

        Raises:
            ValueError: if ids and segments do not belong together.
        """
        index = cls(fingerprint)
        index._ids, index._segments = list(ids), list(segments)
        index._rows = {name: row for row, name in enumerate(ids)}
        index._alive = np.ones(len(ids), bool)
        if not len(index._rows) == len(ids) == sum(segment.size for segment in segments):
            raise ValueError(f"{len(ids)} ids, {len(index._rows)} of them distinct, do not fit the segments")
        return index

    def _append(self, segment: Segment) -> None:
        """Add a segment, and join the last ones while that keeps their number logarithmic in that of documents."""
        self._segments.append(segment)
        while len(self._segments) > 1:
            before, last = self._segments[-2:]
            if before.size > last.size or before.size + last.size > LARGEST:
                return
            self._segments[-2:] = [before.joined(last)]

    def _scores(self, query: Parts, mode: str) -> NDArray[np.float32]:
        scores = np.zeros(len(self._ids), np.float32)
        places, values = Sparse.of_csr(query.sparse).row(0)
        first = 0
        for segment in self._segments:
            part = scores[first : first + segment.size]
            if mode != "sparse":
                part += segment.dense @ query.dense[0]
            if mode != "dense":
                part += segment.words(places, values)
            first += segment.size
        return scores

    def _check(self, ids: Sequence[str], parts: Parts) -> None:
        if not len(ids) == len(parts.dense) == parts.sparse.shape[0]:
            raise ValueError(
                f"{len(ids)} ids for {len(parts.dense)} dense and {parts.sparse.shape[0]} sparse vectors; expected "
                "equally many"
            )
        if len(set(ids)) < len(ids):
            raise ValueError(f"an id is given twice among {len(ids)}; give each document its own")
        self._check_width(parts.dense)

    def _check_width(self, dense: NDArray[np.float32]) -> None:
        width = self._segments[0].dense.shape[1] if self._segments else dense.shape[1]
        if dense.shape[1] != width:
            raise ValueError(
                f"a vector has {dense.shape[1]} dense numbers, those of the index have {width}; embed both with "
                "one model under one context"
            )
