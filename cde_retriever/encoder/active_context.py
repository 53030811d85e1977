"""Prepare a context for a model: refuse another model's, and ask the second stage what it makes of it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.checkpoint.folder import bundled_names
from cde_retriever.context.context import Context
from cde_retriever.context.knowledge import Parts
from cde_retriever.encoder.corpus_head import CorpusHead
from cde_retriever.encoder.loaded_model import LoadedModel
from cde_retriever.encoder.text_runner import Vectors
from cde_retriever.errors import ContextMismatchError
from cde_retriever.model.evidence import Evidence

if TYPE_CHECKING:  # a server of queries runs without SciPy
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class ActiveContext:
    """A context and what a model made of it, replaced together.

    Attributes:
        context: The context.
        state: What the second stage made of it.
        head: The corpus head under it, of a model that has one.
    """

    context: Context
    state: Any
    head: CorpusHead | None

    def join(
        self,
        vectors: Vectors,
        texts: Sequence[str],
        role: str,
        parts: str,
        chunks_of: Sequence[Hashable] | None = None,
    ) -> "Vectors | csr_array[Any] | Parts":
        """Return texts in one of the forms of `PARTS`, given their vectors, which without a head are the one form."""
        if self.head is None:
            return vectors
        if role == "query":
            return self.head.queries(vectors, texts, parts)
        return self.head.documents(vectors, texts, parts, chunks_of)


def activate(model: LoadedModel, context: Context, *, keep_topics: bool = False) -> ActiveContext:
    """Return a context with what a model makes of it; the caller holds the model's lock.

    Args:
        model: The model.
        context: The context.
        keep_topics: Whether to return the context with its topics, for who opens it; of a model without a corpus head
            it has none.

    Raises:
        TypeError: if it is not a `Context`.
        ContextMismatchError: if another model made it; names both.
    """
    if not isinstance(context, Context):
        raise TypeError(f"expected a Context, received {type(context).__name__}; use Context.load(path)")
    refuse_foreign_context(model, context)
    head = None
    if model.head_settings is not None:
        head = CorpusHead(model.head_settings, context, model.backend.dimension, model.dimension)
        if keep_topics:
            context = replace(context, topics=head.found_topics)
    return ActiveContext(context, model.backend.prepare(_evidence(model, context)), head)


def refuse_foreign_context(model: LoadedModel, context: Context) -> None:
    """Refuse a context of another model; raises as `activate` does."""
    ours, theirs = model.identity, context.model
    for name in ("prompts", "max_length", "ordered", "sha256"):  # the hash covers the others, but says less
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            raise ContextMismatchError(
                f"context {context.fingerprint[:12]} was made by model {theirs.name!r} with {name} {other!r}, "
                f"this is {ours.name!r} with {name} {mine!r}; {_advise(model, context, name)}, or fit a context with "
                "this one"
            )


def _advise(model: LoadedModel, context: Context, name: str) -> str:
    """Say how to load the model that made a context, which differs from the one in use by an attribute of that name."""
    ours, theirs = model.identity, context.model
    bundled = theirs.name in bundled_names()
    if ours.name != theirs.name and not bundled:
        advice = "load that model, by its folder or Hub id (`--model` or `model_name=`)"
    elif ours.name == theirs.name and name in _SETTINGS:
        advice = f"load that model with {name}={getattr(theirs, name)!r}"
    else:
        advice = f"load that model, which is bundled, by its name {theirs.name!r}" if bundled else "load that model"
    head = model.head_settings
    if name != "sha256" or head is None or context.words is None or not context.size or ours.name != theirs.name:
        return advice
    if context.words.whole is None and head.query_noise:  # so queries were not fitted under it
        return "it was made by an earlier version, whose index has to be built again"
    made = "with the vector_size and context_for that it was made with (commands: a folder by `cde wrap`)"
    return f"{advice}, {made}, or build an index of an earlier version again"


_SETTINGS = ("prompts", "max_length")
"""What a user may choose when a model is loaded."""


def _evidence(model: LoadedModel, context: Context) -> Evidence[NDArray[np.float32]]:
    """Return what the second stage is told of a context: only what it reads, each document as often as it needs."""
    rows = np.arange(context.size if context.oversampled_to is None else context.oversampled_to)
    frequencies = None
    if model.config.term_statistics:
        frequencies = np.zeros(model.vocabulary_size, np.float32)
        if context.frequencies[:, 0].max(initial=-1) >= len(frequencies):
            raise ContextMismatchError(
                f"context {context.fingerprint[:12]} counts token {context.frequencies[:, 0].max()}, but "
                f"{model.config.name} knows tokens 0 to {len(frequencies) - 1}; fit a context with this model"
            )
        frequencies[context.frequencies[:, 0]] = context.frequencies[:, 1]
    reads = model.backend.reads_dataset_embeddings
    return Evidence(len(rows), context.vectors[rows % context.size] if reads else None, frequencies)
