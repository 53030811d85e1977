"""Keep plain vectors of an index's documents in its folder, so that a refit needs no model."""

from collections.abc import Iterable
from pathlib import Path

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.plain_documents import FILE_NAME, PlainDocuments
from cde_retriever.errors import ConfigError

__all__ = ["FILE_NAME", "begin_plain", "open_plain", "save_plain"]


def begin_plain(encoder: ContextualEncoder, store: str | None) -> None:
    """Have an encoder keep plain vectors of the documents that it embeds.

    Args:
        encoder: The index's.
        store: What keeps the index's vectors, by name, if it writes by itself; None for one in memory.

    Raises:
        ConfigError: for a store that writes by itself, or a model without a corpus head.
    """
    if store is not None:
        raise ConfigError(
            f"keep_plain is True, but {store} writes by itself, and plain vectors are written with an index in memory; "
            "leave keep_plain out"
        )
    encoder.keep_plain()


def open_plain(encoder: ContextualEncoder, folder: Path) -> None:
    """Have an encoder use and keep the plain vectors that are in a folder, if there are any; raises as `load` does."""
    kept = PlainDocuments.load(folder, encoder.identity)
    if kept is not None:
        encoder.keep_plain(kept)


def save_plain(encoder: ContextualEncoder, folder: Path, texts: Iterable[str]) -> None:
    """Write the plain vectors of texts into a folder, if the encoder keeps any; otherwise none stay there."""
    if encoder.plain_documents is not None:
        encoder.plain_documents.save(folder, texts, encoder.identity)
    else:
        (folder / FILE_NAME).unlink(missing_ok=True)
