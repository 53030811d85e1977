"""Refuse what a store or an index, which take any argument, would not use: settings of an embedding, misspelt names."""

import inspect
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from cde_retriever.adapters.contextual_embedding import ContextualEmbedding
from cde_retriever.errors import ConfigError

MAKERS = ("__init__", "from_documents", "from_texts", "from_vector_store")
NEARLY = 0.8
"""Share of letters that two names have in common, from which one is taken for the other misspelt."""
LONGEST = 200
"""Characters of a value that a message shows."""


def refuse_unused(
    given: Mapping[str, Any],
    embedding_class: type[ContextualEmbedding],
    owner: type,
    made_by: str,
    *,
    also: Collection[str] = (),
    names: Collection[str] = (),
) -> None:
    """Refuse settings of an embedding among arguments of a store or an index, and names that are misspelt.

    Args:
        given: The arguments.
        embedding_class: Whose settings they may not be.
        owner: Class of the store or index; a name that it has as an argument is its own.
        made_by: How to give settings to an embedding instead, up to the bracket, such as ``embedding=CDEEmbeddings(``.
        also: Further names that are its own, though an embedding has them too.
        names: What a misspelt one could mean; by default the owner's own arguments.

    Raises:
        ConfigError: if one is among them; says what to write.
    """
    own = _arguments(owner)
    meant = sorted((given.keys() & {*embedding_class.model_fields, "context"}) - own - {*also})
    if meant:
        settings = ", ".join(f"{name}={_shown(given[name])}" for name in meant)
        raise ConfigError(
            f"{settings} is for the embedding, and {owner.__name__} would not use it; write {made_by}{settings})"
        )
    for name in given.keys() - own - {*names}:  # one that is nearly no argument may be for what the owner is made of
        near = get_close_matches(name, names or own, n=1, cutoff=NEARLY)
        if near:
            raise ConfigError(f"{name} is no argument of {owner.__name__}, and would not be used; write {near[0]}=")


def _arguments(owner: type) -> set[str]:
    """Return the names of all arguments that a class or one of its bases can be made with."""
    makers = [getattr(base, name) for base in owner.__mro__ for name in MAKERS if hasattr(base, name)]
    return {argument for maker in makers for argument in inspect.signature(maker).parameters}


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= LONGEST else "..."
