"""Build what the model sees in a step from the number of the step: texts, context and mask.

Everything drawn follows from (seed, step), whatever ran before, so a run resumes at any step and every process draws
the same context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from cde_retriever.encoder.tokens import TextTokenizer, count_documents
from cde_train.batching.false_negatives import FilterConfig, duplicate_mask, false_negative_mask
from cde_train.batching.packing import rank_share
from cde_train.data.pairs import TrainingPair, documents_by_domain
from cde_train.errors import TrainingDataError
from cde_train.training.config import TrainConfig
from cde_train.training.gradient_caching import Ids, TwoStageBatch
from cde_train.vectors.text_vectors import TextVectors


@dataclass(frozen=True)
class TrainingSet:
    """Pairs, and the batches they were packed into.

    Attributes:
        pairs: All pairs.
        batches: Indices of pairs, (steps, batch size), each row from one domain.
        surrogate: The surrogate's vectors of queries, documents and hard negatives; None leaves only duplicates out of
            the denominator.
        filtering: How false negatives are told.
        dataset_embeddings: A frozen first stage's vectors of the documents, where they are known already.
    """

    pairs: Sequence[TrainingPair]
    batches: NDArray[np.int64]
    surrogate: TextVectors | None = None
    filtering: FilterConfig = field(default_factory=FilterConfig)
    dataset_embeddings: TextVectors | None = None

    @cached_property
    def documents_by_domain(self) -> dict[str, list[str]]:
        """Distinct documents of each domain, in the order of the pairs."""
        return documents_by_domain(self.pairs)

    def context_candidates(self, config: TrainConfig, steps: int) -> list[str]:
        """Return every document that may become context in so many steps."""
        if config.context_source == "domain":
            domains = {self.pairs[row[0]].domain for row in self.batches[:steps]}
            return [text for domain in sorted(domains) for text in self.documents_by_domain[domain]]
        return list(dict.fromkeys(self.pairs[i].document for i in self.batches[:steps].ravel().tolist()))


@dataclass(frozen=True)
class BatchBuilder:
    """Builds one process's part of any step.

    Attributes:
        data: Pairs and batches.
        config: Settings of the run.
        tokenizer: Cuts texts at the run's length.
        first_stage: Dataset embeddings of all documents, for a frozen first stage; None to send token ids through it.
        reads_vectors: Whether the model reads dataset embeddings; if not, it is told the number of documents alone.
        vocabulary: Size of the vocabulary over which tokens of the context are counted; 0 to count none.
        rank: This process.
        processes: How many there are.
    """

    data: TrainingSet
    config: TrainConfig
    tokenizer: TextTokenizer
    first_stage: TextVectors | None = None
    reads_vectors: bool = True
    vocabulary: int = 0
    rank: int = 0
    processes: int = 1

    def build(self, step: int) -> TwoStageBatch:
        """Return this process's texts of a step, and the step's context and mask.

        Raises:
            TrainingDataError: if a pair has too few hard negatives, or a text has no vector.
        """
        row = self.data.batches[step]  # the shares of all processes, one after the other
        everyone = [self.data.pairs[i] for i in row]
        mine = [self.data.pairs[i] for i in rank_share(row, self.rank, self.processes)]
        documents, dropped = self._context(step, everyone)
        context, frequencies = self._seen_of(documents, dropped)
        return TwoStageBatch(
            queries=self._ids([pair.query for pair in mine], "query"),
            documents=self._ids(self._documents(mine), "document"),
            context=context,
            false_negatives=torch.from_numpy(self._mask(everyone)),
            dropped=dropped,
            frequencies=frequencies,
        )

    def _documents(self, pairs: Sequence[TrainingPair]) -> list[str]:
        """Return positives in the order of the pairs, then each pair's hard negatives."""
        count = self.config.hard_negatives
        for pair in pairs:
            if len(pair.negatives) < count:
                raise TrainingDataError(
                    f"query {pair.query!r:.80} has {len(pair.negatives)} hard negatives, the run needs {count}; mine "
                    "them, or lower hard_negatives"
                )
        return [pair.document for pair in pairs] + [text for pair in pairs for text in pair.negatives[:count]]

    def _ids(self, texts: Sequence[str], role: str) -> Ids:
        return self.tokenizer.tokenize(texts, role).ids

    def _mask(self, everyone: Sequence[TrainingPair]) -> NDArray[np.bool_]:
        """Return what is left out of the denominators, (q, n): duplicates, and what the surrogate finds too near."""
        queries = [pair.query for pair in everyone]
        documents = self._documents(everyone)
        mask = duplicate_mask(queries, documents)
        if self.data.surrogate is not None and self.data.filtering.enabled:
            vectors = self.data.surrogate.take(queries), self.data.surrogate.take(documents)
            mask |= false_negative_mask(*vectors, self.data.filtering.margin)
        return mask

    def _context(self, step: int, everyone: Sequence[TrainingPair]) -> tuple[list[str], torch.Tensor]:
        """Draw the step's context documents, and which of them context dropout replaces."""
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        null = rng.random() < config.null_rate
        size = int(rng.integers(config.context_sizes[0], config.context_sizes[1], endpoint=True))
        source = list(dict.fromkeys(pair.document for pair in everyone))
        if config.context_source == "domain":
            source = self.data.documents_by_domain[everyone[0].domain]
        drawn = [] if null else rng.choice(len(source), min(size, len(source)), replace=False).tolist()
        documents = [source[i] for i in drawn]
        return documents, torch.from_numpy(rng.random(len(documents)) < config.context_dropout)

    def _seen_of(
        self, documents: Sequence[str], dropped: torch.Tensor
    ) -> tuple[Ids | torch.Tensor | int, torch.Tensor | None]:
        """Return what a batch holds of its context, as `TwoStageBatch` says: context and frequencies."""
        embedded = self.reads_vectors and self.first_stage is None
        ids = self._ids(documents, "document") if embedded or self.vocabulary else []
        frequencies = None
        if self.vocabulary:
            kept = [row for row, gone in zip(ids, dropped.tolist(), strict=True) if not gone]
            frequencies = torch.from_numpy(count_documents(kept, self.vocabulary)).float()
        if not self.reads_vectors:
            return len(documents), frequencies
        if self.first_stage is None:
            return ids, frequencies
        vectors = self.first_stage.take(documents) if documents else np.zeros((0, self.first_stage.width), np.float32)
        return torch.from_numpy(vectors), frequencies
