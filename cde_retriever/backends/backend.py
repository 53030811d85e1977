"""Define what runs a model's numbers: PyTorch, ONNX Runtime or OpenVINO.

An encoder brings texts and context, a backend has neither.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence


class Backend(Protocol):
    """A two-stage model that takes and gives arrays.

    Shapes: b texts, s tokens, c context documents, d width, V tokens in the vocabulary. May be called by one thread at
    a time.
    """

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""

    @property
    def device(self) -> str:
        """Where the model runs, such as ``"cpu"`` or ``"cuda:0"``."""

    @property
    def precision(self) -> str:
        """Precision the model runs in, such as ``"float32"`` or ``"int8"``."""

    @property
    def dimension(self) -> int:
        """Width of the output vectors."""

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the second stage knows."""

    @property
    def reads_dataset_embeddings(self) -> bool:
        """Whether the first stage's vectors of a context play a part."""

    @property
    def is_open(self) -> bool:
        """Whether somebody else holds the model, and may change it."""

    def changed_sha256(self, tokenizer: Tokenizer) -> str | None:
        """Return the hash of the model as it is now; None if it is as it was loaded, or nobody could change it."""

    def prepare(self, evidence: Evidence[NDArray[np.float32]]) -> Any:
        """Return what the second stage makes of a context's documents; for `embed` alone."""

    def embed(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], state: Any) -> NDArray[np.float32]:
        """Return unit vectors, (b, dimension), of tokenised texts, (b, s), under a prepared context."""

    def embed_under(
        self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], states: Sequence[Any]
    ) -> list[NDArray[np.float32]]:
        """Return what `embed` does under each of the states; what does not depend on them is computed once."""

    def embed_first_stage(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return first-stage vectors, (b, d), of tokenised context documents, (b, s)."""
