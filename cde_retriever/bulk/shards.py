"""Shards of a corpus: so many rows each, cut by position, so that every run and every engine cuts the same.

A shard becomes one part of the output. Its texts go through the model in groups of `BATCHES_AT_ONCE` batches, sorted by
length within a group; the same groups, whoever embeds them, and so the same vectors.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cde_retriever.bulk.parts import CONTEXT_KEY, MODEL_KEY, part_file, write_part
from cde_retriever.corpus.rows import Corpus
from cde_retriever.errors import TruncationWarning

if TYPE_CHECKING:  # a process that only reads shards starts without torch
    from cde_retriever.encoder.encoder import ContextualEncoder

BATCHES_AT_ONCE = 32
"""Batches tokenised and sorted by length together; bounds the memory of tokens."""
KERNELS = 16
"""More than one shape of batch needs, in any precision."""


class Shard(NamedTuple):
    """Consecutive documents of a corpus: number of the shard, ids, texts."""

    number: int
    ids: list[str]
    texts: list[str]


def keep_few_kernels() -> None:
    """Have a process that embeds corpora keep few compiled kernels; to be called before its first tensor.

    PyTorch has oneDNN compile a kernel for each shape of batch. oneDNN keeps 1,024 of them, and so does ideep, which
    stands between the two, for layers with packed weights, at half a megabyte each. The others are small, but lie in
    the heap where a batch's tensors were, and over thousands of shapes the heap grows around them (docs/log.md). An
    application with models of its own decides for itself, so nothing else calls this.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS))  # ideep's


@dataclass(frozen=True)
class PartReport:
    """What became of a shard.

    Attributes:
        number: Number of shard and part.
        documents: Documents in it.
        empty: Those without text.
        cut: Whether a text was longer than the model reads.
        process: Id of the process that embedded it, on its machine.
        core_seconds: Processor time that process took for it.
    """

    number: int
    documents: int
    empty: int
    cut: bool
    process: int
    core_seconds: float


def shard_rows(rows: int, size: int) -> list[int]:
    """Return the number of rows of each shard."""
    return [min(size, rows - start) for start in range(0, rows, size)]


def read_shards(corpus: Corpus, size: int, numbers: Iterable[int]) -> Iterator[Shard]:
    """Yield some shards.

    Args:
        corpus: The corpus.
        size: Rows a shard.
        numbers: Which, ascending.

    Raises:
        CorpusError: if a file cannot be read, or is not as it was counted.
    """
    wanted = list(numbers)
    documents = corpus.read((n * size, min((n + 1) * size, corpus.rows)) for n in wanted)
    for number in wanted:
        rows = list(islice(documents, min(size, corpus.rows - number * size)))
        yield Shard(number, [row.id for row in rows], [row.text for row in rows])


def embed_shard(
    encoder: "ContextualEncoder",
    shard: Shard,
    folder: Path,
    batch_size: int,
    advance: Callable[[int], object] = lambda _: None,
) -> PartReport:
    """Embed a shard under the encoder's context and write its part.

    Args:
        encoder: An encoder with a context.
        shard: The documents.
        folder: Where the part goes.
        batch_size: Texts of 128 tokens through the model at once.
        advance: Called with a number of documents when so many more are embedded.
    """
    began, group = time.process_time(), batch_size * BATCHES_AT_ONCE
    # One array for all rows: a list of blocks between a model's passing tensors would leave the heap in pieces.
    vectors, cut = np.empty((len(shard.texts), encoder.dimension), np.float32), False
    for start in range(0, len(shard.texts), group):
        texts = shard.texts[start : start + group]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            vectors[start : start + group] = encoder.encode_documents(texts, batch_size=batch_size)
        for warning in caught:
            if isinstance(warning.message, TruncationWarning):
                cut = True  # said once, at the end of the run, not once a group
            else:
                warnings.warn(warning.message, stacklevel=2)
        advance(len(texts))
    write_part(part_file(folder, shard.number), shard.ids, vectors, part_metadata(encoder))
    empty = sum(not text.strip() for text in shard.texts)
    return PartReport(shard.number, len(shard.texts), empty, cut, os.getpid(), time.process_time() - began)


def part_metadata(encoder: "ContextualEncoder") -> dict[str, str]:
    """Return what the metadata of a part say: the fingerprint of the context and the sha256 of the model."""
    return {CONTEXT_KEY: encoder.context.fingerprint, MODEL_KEY: encoder.identity.sha256}
