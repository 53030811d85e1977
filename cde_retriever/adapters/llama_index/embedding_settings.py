"""Hold the settings of a `CDEEmbedding` and the model they name: what is copied, pickled and written of both.

What decides the vectors cannot be assigned later: the model is loaded. A copy has the same context; LlamaIndex asks for
copies, dictionaries and pickles where it starts workers, makes keys of a cache, and tells of events.
"""

import os
import uuid
from collections.abc import Mapping
from typing import Any, Literal, Self

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field

from cde_retriever.adapters.contextual_embedding import ContextualEmbedding
from cde_retriever.adapters.llama_index.storage import PathLike, read_context
from cde_retriever.adapters.one_context import MODEL_SETTINGS
from cde_retriever.context.context import Context
from cde_retriever.errors import ConfigError

DEFAULT_MODEL = "cde-retriever/default"
UNFITTED = "unfitted-"
MODEL_FIELDS = frozenset(("model_name", "parts", *MODEL_SETTINGS))
"""Fields that decide what the vectors are, and so stay as they were when the object was made."""


class EmbeddingSettings(ContextualEmbedding, BaseEmbedding):
    """The fields of a `CDEEmbedding`, which describes them."""

    model_config = ConfigDict(extra="forbid")

    model_name: str = DEFAULT_MODEL
    on_missing_context: Literal["fit", "error"] = "fit"
    min_context_documents: int = Field(default=2, gt=0)
    embed_batch_size: int = Field(default=32, gt=0, le=2048)

    def __init__(
        self, model_name: PathLike | None = None, *, context: Context | PathLike | None = None, **settings: Any
    ) -> None:
        _refuse_cache(settings.get("embeddings_cache"))
        name = DEFAULT_MODEL if model_name is None else os.fspath(model_name)
        super().__init__(model_name=name, **settings)
        known = context if isinstance(context, Context | None) else read_context(context)
        self._load(None if name == DEFAULT_MODEL else name, known)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; not one that decides what the vectors are, and an ``embeddings_cache`` is refused here too."""
        if name == "embeddings_cache":
            _refuse_cache(value)
        if name in MODEL_FIELDS and value != getattr(self, name):
            _refuse_change(name, value)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy that shares model and context; `update` changes what may be assigned, and nothing else."""
        for name in MODEL_FIELDS & (update or {}).keys():
            if (update or {})[name] != getattr(self, name):
                _refuse_change(name, (update or {})[name])
        if "embeddings_cache" in (update or {}):
            _refuse_cache((update or {})["embeddings_cache"])
        return super().model_copy(update=update, deep=deep)

    # Copies, cache keys and events

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings and the fingerprint, from which `IngestionPipeline` makes cache keys.

        Without a context the value is never the same twice: whatever was cached before is not taken for ours.
        """
        key = self._own.fingerprint if self._own.is_set else f"{UNFITTED}{uuid.uuid4()}"
        return {**super().to_dict(**kwargs), "context_fingerprint": key}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return an object with these settings; if it had a context, that has to be loaded, and no other is taken."""
        settings = {**data, **kwargs}
        fingerprint = settings.pop("context_fingerprint", UNFITTED)
        if fingerprint.startswith(UNFITTED):
            return super().from_dict(settings)
        made = super().from_dict(settings | {"on_missing_context": "error"})
        made._own.expected = fingerprint
        return made

    def to_payload(self) -> dict[str, Any]:
        """Return what events tell about the embedding."""
        fingerprint = self._own.fingerprint if self._own.is_set else None
        name = self._encoder.identity.name
        return {**super().to_payload(), "checkpoint": name, "context_fingerprint": fingerprint}

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name, field in type(self).model_fields.items() if not field.exclude}

    def __getstate__(self) -> dict[str, Any]:
        """Return settings and context; the weights are read again where it is unpickled."""
        return {"settings": self._settings(), "context": self._own.to_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore settings and context; without one, never fit: a worker process sees a shard of the corpus."""
        settings, data = dict(state["settings"]), state["context"]
        if data is None:
            settings["on_missing_context"] = "error"
        self.__init__(**settings, context=None if data is None else Context.from_bytes(data))  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return an object of its own with the same settings and context."""
        return type(self)(**self._settings(), context=self._own.context if self._own.is_set else None)


def _refuse_change(name: str, value: object) -> None:
    raise ConfigError(
        f"{name} cannot be set to {value!r} on a CDEEmbedding that exists: its model is loaded, and vectors may "
        f"be stored already; make a new one with CDEEmbedding(..., {name}={value!r}), and a new index for it"
    )


def _refuse_cache(cache: Any) -> None:
    if cache is not None:
        raise ConfigError(
            f"embeddings_cache is {type(cache).__name__}, but LlamaIndex keys it on text alone: it would give vectors "
            "of another context, and documents' vectors for queries; leave it out, or use the pipeline's own cache"
        )
