"""Say how an encoder is made again in another process: by loading its model from the same place."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.encoder.model_with_context import ModelWithContext


def reopening(encoder: ModelWithContext) -> tuple[Callable[..., ModelWithContext], tuple[Any, ...]]:
    """Return what a pickled copy is made with.

    Raises:
        TypeError: if the model was not loaded, or was opened and may have changed.
    """
    if encoder.spec is None or encoder.backend.is_open:
        raise TypeError(
            f"the model of {encoder!r} is in memory alone, so it cannot be pickled; write it with save_pretrained, and "
            "load it with from_pretrained"
        )
    spec = replace(encoder.spec, truncate_dim=encoder.truncate_dim)
    return _reopen, (type(encoder), spec, encoder.context.to_bytes() if encoder.has_context else None)


def _reopen(kind: type[ModelWithContext], spec: ModelSpec, context: bytes | None) -> ModelWithContext:
    encoder = kind.from_spec(spec)
    if context is not None:
        encoder.set_context(Context.from_bytes(context))
    return encoder
