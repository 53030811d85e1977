"""Options of `ContextualEncoder`'s methods, which describe them."""

from collections.abc import Hashable, Sequence
from typing import TypedDict

from cde_retriever.encoder.text_runner import OnTruncation


class QueryOptions(TypedDict, total=False):
    """Options of `ContextualEncoder.encode_queries`."""

    batch_size: int
    show_progress: bool


class DocumentOptions(QueryOptions, total=False):
    """Options of `ContextualEncoder.encode_documents`."""

    on_truncation: OnTruncation | None
    chunks_of: Sequence[Hashable] | None
