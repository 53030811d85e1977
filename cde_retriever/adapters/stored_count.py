"""Count the records of a vector store, where it tells their number without reading them."""

import logging
from typing import Any, cast

logger = logging.getLogger(__name__)


def stored_count(store: Any) -> int | None:
    """Return how many records a store of Chroma or Qdrant holds; None for others, and where nothing is there yet."""
    try:
        collection: Any = getattr(store, "_collection", None)
        if hasattr(collection, "count"):  # Chroma
            return int(collection.count())
        name, client = getattr(store, "collection_name", None), cast(Any, getattr(store, "client", None))
        return int(client.count(name).count) if name and hasattr(client, "count") else None
    except Exception as error:  # each store says "no such collection" with a class of its own
        logger.debug("%s tells no number of records: %r", type(store).__name__, error)
        return None
