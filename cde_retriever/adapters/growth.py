"""Count what joins an index after its context was fitted, and tell whether it is like that: `Growth`.

The counts are stored with the index: by LlamaIndex in the index's record, by LangChain in ``growth.json`` beside a
saved store, and for stores that write by themselves in that file of ``context_dir``, anew after each addition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cde_retriever.adapters.contextual_embedding import ContextualEmbedding
from cde_retriever.context.drift import Added, Drift, Joined, Reference
from cde_retriever.errors import ContextFormatError
from cde_retriever.files.forking import ThreadLock
from cde_retriever.files.records import RecordFormat

FILE_NAME = "growth.json"
_FORMAT = RecordFormat(1, ContextFormatError, "delete it, and counting starts anew")


class Growth:
    """What joined an index. Safe to use from several threads.

    Args:
        embedding: The index's, with its context.
        record: What `record` gave before; None for nothing, and so is one of another context.
        folder: Where to write the counts after each addition; None for nowhere.
    """

    def __init__(
        self, embedding: ContextualEmbedding, record: Mapping[str, Any] | None = None, folder: Path | None = None
    ) -> None:
        self._embedding, self._folder = embedding, folder
        self._fingerprint = embedding.context_fingerprint
        known = dict(record or {})
        same = known.pop("context", None) == self._fingerprint
        self._added = Added(**known) if same else Added()
        self._lock = ThreadLock()

    @classmethod
    def open(cls, embedding: ContextualEmbedding, folder: Path, *, keep: bool) -> "Growth":
        """Return what is known in a folder, if anything is.

        Args:
            embedding: The index's, with its context.
            folder: The folder.
            keep: Whether to write the counts there after each addition.

        Raises:
            ContextFormatError: if the file is damaged.
        """
        file = folder / FILE_NAME
        record = _FORMAT.read(file) if file.is_file() else None
        with _FORMAT.reading(file):
            return cls(embedding, record, folder if keep else None)

    @property
    def drift(self) -> Drift:
        """How many documents joined, and how unlike the context they are; nothing of a model without a corpus head."""
        return Drift.of_all([self.joined])

    @property
    def joined(self) -> Joined:
        """What joined, and what it is compared with."""
        context = self._embedding.context
        size = 0 if context.words is None else context.size
        return Joined(
            self._added, context.documents_seen, size, self._embedding.fitted_size, self._embedding.holds_words
        )

    @cached_property
    def _reference(self) -> Reference | None:
        context = self._embedding.context
        return self._embedding.encoder.drift_reference() if context.words is not None and context.size > 1 else None

    def join(self, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
        """Count documents that joined the index.

        Args:
            texts: What was embedded.
            vectors: As the index holds them, (n, d).
        """
        if not texts:
            return
        found = Added(len(texts))
        if self._reference is not None:
            found = self._reference.judge(texts, np.asarray(vectors, np.float32))
        with self._lock:
            self._added += found
            if self._folder is not None:
                self.save(self._folder)

    def record(self) -> dict[str, Any]:
        """Return the counts, to be stored."""
        return {"context": self._fingerprint, **asdict(self._added)}

    def save(self, folder: Path) -> None:
        """Write the counts into a folder; a killed process leaves the old ones or the new ones."""
        _FORMAT.write(folder / FILE_NAME, self.record())

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a copy is made from."""
        return type(self), (self._embedding, self.record(), self._folder)
