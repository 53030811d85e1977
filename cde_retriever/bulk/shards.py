"""Cut a corpus into shards of so many rows each, by position, so that every run and every engine cuts the same.

A shard becomes one part of the output. Its texts go through the model in groups of `BATCHES_AT_ONCE` batches, sorted by
length within a group; the same groups, whoever embeds them, and so the same vectors.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cde_retriever.bulk.parts import CONTEXT_KEY, CORPUS_KEY, MODEL_KEY, NUMBER_KEY, PARTS_KEY, part_file, write_part
from cde_retriever.corpus.rows import Corpus, Document
from cde_retriever.errors import TruncationWarning
from cde_retriever.words.sparse import Sparse

if TYPE_CHECKING:  # a process that only reads shards starts without torch
    from numpy.typing import NDArray

    from cde_retriever.bulk.settings import BulkSettings
    from cde_retriever.encoder.encoder import ContextualEncoder

BATCHES_AT_ONCE = 32
"""Batches tokenised and sorted by length together; bounds the memory of tokens."""
CHARACTERS_AT_ONCE = 8_000_000
"""Characters of long documents that are tokenised together; bounds the memory of texts."""


class Shard(NamedTuple):
    """Consecutive documents of a corpus.

    Attributes:
        number: Number of the shard.
        rows: How many documents it has.
        documents: The documents; to be read once, before those of the next shard.
    """

    number: int
    rows: int
    documents: Iterable[Document]


@dataclass(frozen=True)
class PartReport:
    """What became of a shard.

    Attributes:
        number: Number of shard and part.
        documents: Documents in it.
        empty: Those without text.
        cut: Those longer than the model reads.
        sha256: Hash of the part's file.
        process: Id of the process that embedded it, on its machine.
        core_seconds: Processor time that process took for it.
    """

    number: int
    documents: int
    empty: int
    cut: int
    sha256: str
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
        rows = min(size, corpus.rows - number * size)
        yield Shard(number, rows, islice(documents, rows))


def embed_shard(
    encoder: "ContextualEncoder",
    shard: Shard,
    folder: Path,
    settings: "BulkSettings",
    corpus: str,
    *,
    keep_texts: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> PartReport:
    """Embed a shard under the encoder's context and write its part.

    Args:
        encoder: An encoder with a context.
        shard: The documents.
        folder: Where the part goes.
        settings: Sizes of batches, and which parts to write.
        corpus: Hash of the corpus, for the part's metadata.
        keep_texts: Whether the part holds the texts too.
        advance: Called with a number of documents when so many more are embedded.
    """
    began, at, ids, empty, cut = time.process_time(), 0, list[str](), 0, 0
    # One array for all rows: a list of blocks between a model's passing tensors would leave the heap in pieces.
    vectors = np.empty((shard.rows, written_width(encoder, settings.parts)), np.float32)
    sparse: list[Sparse] | None = [] if settings.parts == "both" else None
    kept: list[str] | None = [] if keep_texts else None
    for group in groups_of(shard.documents, settings.batch_size * BATCHES_AT_ONCE):
        texts = [document.text for document in group]
        vectors[at : at + len(texts)], words, cut_now = _embed(encoder, texts, settings)
        at, cut = at + len(texts), cut + cut_now
        ids += [document.id for document in group]
        empty += sum(not text.strip() for text in texts)
        if sparse is not None:
            sparse.append(Sparse.of_csr(words))
        if kept is not None:
            kept += texts
        advance(len(texts))
    metadata = part_metadata(encoder, corpus, shard.number, settings.parts)
    joined = None if sparse is None else Sparse.joined(sparse)
    sha256 = write_part(part_file(folder, shard.number), ids, vectors, metadata, kept, joined)
    return PartReport(shard.number, at, empty, cut, sha256, os.getpid(), time.process_time() - began)


def groups_of(documents: Iterable[Document], most: int) -> Iterator[list[Document]]:
    """Yield documents in groups of at most so many, and of few characters if they are long."""
    group: list[Document] = []
    characters = 0
    for document in documents:
        if group and (len(group) == most or characters + len(document.text) > CHARACTERS_AT_ONCE):
            yield group
            group, characters = [], 0
        group.append(document)
        characters += len(document.text)
    if group:
        yield group


def written_width(encoder: "ContextualEncoder", parts: str) -> int:
    """Return the width of the vectors that parts of an output hold."""
    return encoder.dimension if parts == "one" else encoder.dense_dimension


def _embed(
    encoder: "ContextualEncoder", texts: list[str], settings: "BulkSettings"
) -> tuple["NDArray[np.float32]", Any, int]:
    """Return vectors, sparse parts or None, and how many texts were cut: said once, at the end, not once a group."""
    cuts: list[TruncationWarning] = []
    made = encoder.encode_documents(
        texts, parts=settings.parts, batch_size=settings.batch_size, on_truncation=cuts.append
    )
    vectors, sparse = made if settings.parts == "both" else (made, None)
    return vectors, sparse, sum(len(cut.indices) for cut in cuts)


def part_metadata(encoder: "ContextualEncoder", corpus: str, number: int, parts: str) -> dict[str, str]:
    """Return what the metadata of a part say: context, model, corpus, which part it is, and what it holds."""
    return {
        CONTEXT_KEY: encoder.context.fingerprint,
        MODEL_KEY: encoder.identity.sha256,
        CORPUS_KEY: corpus,
        NUMBER_KEY: str(number),
        PARTS_KEY: parts,
    }
