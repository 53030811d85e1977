"""`CDEModule`: an encoder under one context as a module of sentence-transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers.base.modules import InputModule
from tokenizers import Tokenizer

from cde_retriever.adapters.one_context import OneContext
from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.context.context import FILE_NAME, Context
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.shared_weights import shared_encoder
from cde_retriever.errors import ConfigError, ContextNotFittedError
from cde_retriever.model.config import ROLES

DOOR = "cde_retriever.sentence_transformers"
"""Where models that were saved look for the module."""


class CDEModule(InputModule):
    """Turn texts into vectors under a context; the whole model in one module, for inference.

    Which role texts have says ``task``, as `encode_query` and `encode_document` pass it. Without a task they are
    documents, or queries if they come with the query's prompt. The encoder puts prompts before texts itself.

    Args:
        spec: The model and how to run it.
        context: The context.

    Raises:
        ContextMismatchError: if another model made the context.
    """

    __module__ = DOOR
    save_in_root = False

    def __init__(self, spec: ModelSpec, context: Context) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spec = spec
        self._own = OneContext(shared_encoder(spec.for_stored(context.model.name)), type(self).__name__)
        self._own.set(context)
        self.register_buffer("_place", torch.empty(0), persistent=False)  # moves as other modules' weights do

    @property
    def encoder(self) -> ContextualEncoder:
        """The encoder behind; its context is this module's."""
        return self._own.encoder

    @property
    def stamp(self) -> str:
        """What vectors are made under: the context's fingerprint and, if they were cut, how many numbers."""
        return self._own.stamp

    @property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        """A copy of the model's tokenizer."""
        return self.encoder.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens."""
        return self.encoder.config.max_length

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return self.encoder.dimension

    def preprocess(  # type: ignore[override]
        self, inputs: Sequence[str], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return the texts as they are and their role.

        Raises:
            ConfigError: for a task or prompt of neither role.
        """
        prompts = self.encoder.config.prompts
        if task not in (None, *ROLES):
            raise ConfigError(f"task is {task!r}, expected {' or '.join(map(repr, ROLES))}")
        if prompt and prompt not in prompts.values():
            raise ConfigError(
                f"prompt is {prompt!r}, but {self.encoder.config.name} knows {dict(prompts)!r}; leave it out"
            )
        asks = bool(prompt) and prompt == prompts["query"] != prompts["document"]
        return {"texts": list(inputs), "role": task or ("query" if asks else "document")}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the features with ``sentence_embedding``, (b, d) float32, where the module was moved to."""
        encoder = self.encoder
        encode = encoder.encode_queries if features["role"] == "query" else encoder.encode_documents
        return features | {"sentence_embedding": torch.from_numpy(encode(features["texts"])).to(self._place.device)}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the context and the checkpoint.

        Raises:
            ConfigError: if the model runs as an export, which has no weights to write.
            ContextMismatchError: if another context is already there.
        """
        self._own.context.save(output_path)
        self.encoder.save_pretrained(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> Self:  # type: ignore[override]
        """Read what `save` wrote.

        Raises:
            ContextNotFittedError: if the context is missing.
        """
        folder = Path(model_name_or_path, subfolder)
        if not (folder / FILE_NAME).is_file():
            raise ContextNotFittedError(
                f"{folder} has no {FILE_NAME}, and vectors without their context are not comparable with those of the "
                "model that was saved; copy the whole folder"
            )
        return cls(ModelSpec.of(folder), Context.load(folder))

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "context": self._own.to_bytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["spec"], Context.from_bytes(state["context"]))  # type: ignore[misc]
