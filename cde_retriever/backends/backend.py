"""What runs a model's numbers: PyTorch, ONNX Runtime or OpenVINO.

An encoder brings texts and context, a backend has neither.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cde_retriever.model.config import ModelConfig


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
    def first_stage_width(self) -> int:
        """Width of the dataset embeddings that the second stage reads; 0 if it reads their number alone."""

    def prepare(self, dataset_embeddings: NDArray[np.float32], frequencies: NDArray[np.float32] | None) -> Any:
        """Return what the second stage makes of a context; for `embed` alone.

        Args:
            dataset_embeddings: First-stage vectors, (c, d) or (c, 0); c = 0 for the null context.
            frequencies: How many of the documents hold each token, (V,); None for models without term statistics.
        """

    def embed(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], state: Any) -> NDArray[np.float32]:
        """Return unit vectors, (b, dimension), of tokenised texts, (b, s), under a prepared context."""

    def embed_first_stage(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return first-stage vectors, (b, d), of tokenised context documents, (b, s)."""
