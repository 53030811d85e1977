"""Say what a run of `cde embed` did: `BulkSummary`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BulkSummary:
    """What a run did.

    Attributes:
        output: Folder of the parts.
        context: Fingerprint of the context.
        documents: Documents in the corpus.
        embedded: Documents embedded by this run.
        skipped: Documents that had their vectors already.
        empty: Documents without text, of all.
        cut: Documents longer than the model reads, of all; of parts that version 0.1.0 wrote that is not known.
        without_documents: Files of the corpus that gave no document.
        seconds: Time of reading, embedding and writing shards; what comes before, as fitting a context, is left out.
        core_seconds: Processor time of embedding and writing them, of all workers.
    """

    output: str
    context: str
    documents: int
    embedded: int
    skipped: int
    empty: int
    cut: int
    without_documents: tuple[str, ...]
    seconds: float
    core_seconds: float

    @property
    def rate(self) -> float:
        """Documents embedded a second."""
        return self.embedded / self.seconds
