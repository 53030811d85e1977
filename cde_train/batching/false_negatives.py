"""Find false negatives: documents of a batch that answer another's query (paper, section 3.2).

The surrogate judges. Left out of the denominator of query i is every document j with

    f(q_i, d_j) >= f(q_i, d_i) + margin

and, whatever the surrogate says, every document that is a positive of the same query text. The positive itself stays,
by its index. One batch costs O(q n d) time and O(q n) memory; the report walks batches one by one.
"""

import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from cde_retriever.progress import progress
from cde_train.data.pairs import TrainingPair
from cde_train.settings import Cosine, Settings
from cde_train.vectors.text_vectors import TextLookup

ROUNDING = 1e-6
"""What float32 may add to a cosine; so much below the threshold still counts as at it."""

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FilterConfig(Settings):
    """How false negatives are told.

    Attributes:
        margin: How much nearer to the query than its positive a document must be to be left out, as a difference of
            cosines; negative leaves out more (paper's code: 0).
        enabled: Whether to ask the surrogate at all; if not, only duplicates are left out.
    """

    margin: Cosine = 0.0
    enabled: bool = True


@dataclass
class FilterCounts:
    """What was left out of denominators.

    Attributes:
        batches: Batches seen.
        queries: Queries in them.
        candidates: Negatives these queries had before filtering: in-batch and hard ones.
        duplicates: Of these, left out as a positive of the same query, or a copy of it.
        false_negatives: Left out because of the surrogate's score, and no duplicates.
        queries_affected: Queries that lost at least one negative.
        queries_without_negatives: Queries that lost all, whose loss is 0.
    """

    batches: int = 0
    queries: int = 0
    candidates: int = 0
    duplicates: int = 0
    false_negatives: int = 0
    queries_affected: int = 0
    queries_without_negatives: int = 0

    def add(self, duplicates: Mask, false_negatives: Mask) -> None:
        """Count one batch."""
        q, n = duplicates.shape
        lost = (duplicates | false_negatives).sum(axis=1)
        self.batches += 1
        self.queries += q
        self.candidates += q * (n - 1)
        self.duplicates += int(duplicates.sum())
        self.false_negatives += int((false_negatives & ~duplicates).sum())
        self.queries_affected += int((lost > 0).sum())
        self.queries_without_negatives += int((lost == n - 1).sum())


@dataclass(frozen=True)
class Dropped:
    """A document left out because of its score.

    Attributes:
        domain: Domain of the batch.
        query: The query.
        positive: Its document.
        dropped: The document left out.
        positive_score: Cosine of query and positive under the surrogate.
        dropped_score: Cosine of query and the document left out.
        hard_negative: Whether it was a hard negative; otherwise the document of another query.
    """

    domain: str
    query: str
    positive: str
    dropped: str
    positive_score: float
    dropped_score: float
    hard_negative: bool


@dataclass
class FilterReport:
    """What a filter leaves out of the batches of a run.

    Attributes:
        margin: The filter's margin; None if it was off.
        total: Counts over all batches.
        domains: Counts by domain.
        examples: The clearest case of each of a domain's first batches.
    """

    margin: float | None
    total: FilterCounts = field(default_factory=FilterCounts)
    domains: dict[str, FilterCounts] = field(default_factory=dict)
    examples: list[Dropped] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def false_negative_mask(queries: Floats, documents: Floats, margin: float) -> Mask:
    """Return True where the surrogate finds a document as near to the query as its positive, (q, n).

    Args:
        queries: Unit vectors, (q, d).
        documents: Unit vectors, (n, d) with n >= q: the positives in query order, then hard negatives, anybody's.
        margin: Added to the positive's score before comparing.
    """
    return _mask_of_scores(queries @ documents.T, margin)


def duplicate_mask(query_keys: Sequence[Hashable], document_keys: Sequence[Hashable]) -> Mask:
    """Return True where a document is a positive of the same query, by text, (q, n).

    That is a copy of the query's own positive; and where queries repeat, the positives of all of them, and copies.

    Args:
        query_keys: Texts or whatever stands for them, q of them.
        document_keys: The same of documents, n >= q of them: the positives in query order, then hard negatives.
    """
    q, n = len(query_keys), len(document_keys)
    same_query, same_document = _numbers(query_keys), _numbers(document_keys)
    is_positive = np.zeros((q, n), bool)  # (distinct queries, distinct documents)
    is_positive[same_query, same_document[:q]] = True
    mask = is_positive[same_query][:, same_document]
    np.fill_diagonal(mask, False)
    return mask


def report_batches(
    pairs: Sequence[TrainingPair],
    batches: Iterable[NDArray[np.int64]],
    config: FilterConfig,
    *,
    hard_negatives: int,
    queries: TextLookup,
    documents: TextLookup,
    examples: int = 5,
) -> FilterReport:
    """Filter every batch as training will, and say what is left out.

    Args:
        pairs: All pairs.
        batches: Rows of pair numbers, each row from one domain.
        config: The filter.
        hard_negatives: How many of its hard negatives a pair brings into training; others are not looked at.
        queries: Vectors of the queries; may be the same object as `documents`.
        documents: Vectors of documents and hard negatives.
        examples: Examples to keep of each domain.
    """
    report = FilterReport(config.margin if config.enabled else None)
    kept: dict[str, int] = {}
    for row in progress(batches, label="Filtering", unit="batch"):
        batch = [pairs[i] for i in row]
        texts = [pair.document for pair in batch]
        texts += [text for pair in batch for text in pair.negatives[:hard_negatives]]
        duplicates = duplicate_mask([pair.query for pair in batch], texts)
        dropped = np.zeros_like(duplicates)
        domain = batch[0].domain
        if config.enabled:
            scores = queries.take([pair.query for pair in batch]) @ documents.take(texts).T
            dropped = _mask_of_scores(scores, config.margin)
            if kept.get(domain, 0) < examples and (dropped & ~duplicates).any():
                report.examples.append(_clearest(batch, texts, scores, dropped & ~duplicates))
                kept[domain] = kept.get(domain, 0) + 1
        for counts in (report.total, report.domains.setdefault(domain, FilterCounts())):
            counts.add(duplicates, dropped)
    return report


def _clearest(batch: Sequence[TrainingPair], texts: Sequence[str], scores: Floats, dropped: Mask) -> Dropped:
    """Return the dropped document that is ahead of the positive by most."""
    ahead = np.where(dropped, scores - np.diagonal(scores)[:, None], -np.inf)
    i, j = (int(k) for k in np.unravel_index(np.argmax(ahead), ahead.shape))
    pair = batch[i]
    return Dropped(
        domain=pair.domain,
        query=pair.query,
        positive=pair.document,
        dropped=texts[j],
        positive_score=round(float(scores[i, i]), 4),
        dropped_score=round(float(scores[i, j]), 4),
        hard_negative=j >= len(batch),
    )


def _mask_of_scores(scores: Floats, margin: float) -> Mask:
    mask: Mask = scores >= np.diagonal(scores)[:, None] + np.float32(margin - ROUNDING)
    np.fill_diagonal(mask, False)
    return mask


def _numbers(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(key, len(first)) for key in keys], np.int64)
