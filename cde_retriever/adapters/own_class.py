"""Return the class that a store has beneath a guard's: a guarded store is of a class made of its own."""

from typing import Any


def own_class(store: Any) -> Any:
    """Return a store's class, or of a guarded store the one that it was of before."""
    return getattr(store, "_store_class", type(store))
