"""Make an encoder and its saved context from settings: for frameworks that write their components down as JSON.

The settings name the context by its path and by the stamp of the vectors made under it, so what is made again from them
embeds as before or not at all.
"""

import os
from collections.abc import Iterable
from typing import Any

from cde_retriever.adapters.one_context import OneContext
from cde_retriever.adapters.stamps import check_stamp
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import Context
from cde_retriever.encoder.shared_weights import shared_encoder

PathLike = str | os.PathLike[str]
STAMP_KEY = "stamp"


def fit_and_save(
    texts: Iterable[str],
    path: PathLike,
    model_name: PathLike | None,
    settings: dict[str, Any],
    *,
    seed: int,
    context_size: int | None,
    language: str | None,
) -> None:
    """Sample a whole corpus and save the context; raises as `ContextualEncoder.fit_context` and `Context.save` do.

    Args:
        texts: The corpus as it will be embedded.
        path: A ``.safetensors`` file or a folder.
        model_name: The model; None for the bundled one.
        settings: How to run it, as `ModelSpec.of` takes them.
        seed: Seed of the sample.
        context_size: Most context documents; None for the model's own number.
        language: Whose words are counted; None for the model's own language.
    """
    encoder = shared_encoder(ModelSpec.of(model_name, **settings))
    encoder.fit_context(texts, seed=seed, context_size=context_size, language=language).save(path)


class KeptContext(OneContext):
    """An encoder under a saved context, and the settings that make it again.

    Args:
        owner: Name of the class that holds it, for messages.
        path: Where the context is saved.
        model_name: The model; None for the bundled one.
        settings: How to run it, as `ModelSpec.of` takes them.

    Raises:
        FileNotFoundError: if there is no context at the path.
        ContextMismatchError: if another model made it.
        CheckpointError, ConfigError: as `ContextualEncoder.from_pretrained` says.
    """

    def __init__(self, owner: str, path: PathLike, model_name: PathLike | None, settings: dict[str, Any]) -> None:
        context = Context.load(path)
        spec = ModelSpec.of(model_name, **settings)
        super().__init__(shared_encoder(spec.for_stored(context.model.name)), owner)
        self.set(context)
        self._settings = {
            "context": os.fspath(path),
            "model_name": spec.name,
            **{name: value for name, value in spec.arguments().items() if value is not None},
        }

    def settings(self) -> dict[str, Any]:
        """Return what makes it again, JSON throughout: ``context``, ``model_name``, what else was said, ``stamp``."""
        return self._settings | {STAMP_KEY: self.stamp}

    def require(self, stamp: str | None) -> None:
        """Refuse settings that were written under another context; None stands for none.

        Raises:
            ContextMismatchError: if the stamps differ; names both.
        """
        if stamp is not None:
            check_stamp(stamp, self.stamp, f"what this {self.owner} was written down with")
