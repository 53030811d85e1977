"""A two-stage model on PyTorch: any device, any floating dtype, and the only backend that trains and writes weights."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from cde_retriever.backends.packed import can_pack, pack
from cde_retriever.checkpoint.checkpoint import write_checkpoint
from cde_retriever.errors import ConfigError
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.late import LateSecondStage
from cde_retriever.model.stages import State
from cde_retriever.model.two_stage import TwoStageModel


class TorchBackend:
    """Runs a `TwoStageModel`.

    Args:
        model: The model, where it should run.
        stored_dtype: Dtype in which `save` writes the weights.
        sole_owner: Whether nobody else holds the model. It then runs from packed weights, where this machine has them,
            until somebody asks for it (`model`).
        source_sha256: Hash of what the model was converted from, if it was.
    """

    def __init__(
        self,
        model: TwoStageModel,
        stored_dtype: torch.dtype = torch.float32,
        *,
        sole_owner: bool = False,
        source_sha256: str | None = None,
    ) -> None:
        self._model = model.eval()
        self.stored_dtype = stored_dtype
        self._sole_owner = sole_owner
        self._source_sha256 = source_sha256

    @property
    def model(self) -> TwoStageModel:
        """The model; whoever asks for it may change it, so from then on it runs as it is."""
        self._sole_owner = False
        return self._model

    @cached_property
    def _packed(self) -> TwoStageModel:
        return pack(self._model) if can_pack(self._model) else self._model

    @property
    def running(self) -> TwoStageModel:
        """What embeds texts: the model, or its packed copy; not to be changed."""
        return self._packed if self._sole_owner else self._model

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self._model.config

    @property
    def device(self) -> str:
        """Where the model is."""
        return str(next(self._model.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """Precision the model runs in."""
        return next(self._model.parameters()).dtype

    @property
    def precision(self) -> str:
        """The name of `dtype`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def dimension(self) -> int:
        """Width of the output vectors."""
        return self._model.dimension

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the second stage knows."""
        return int(self._model.second_stage.backbone.config.vocab_size)

    @property
    def reads_dataset_embeddings(self) -> bool:
        """Whether the first stage's vectors of a context play a part."""
        return self._model.second_stage.reads_dataset_embeddings

    @torch.inference_mode()
    def prepare(self, evidence: Evidence[NDArray[np.float32]]) -> State:
        """Return what the second stage makes of a context; see `Backend.prepare`."""
        vectors, counts = evidence.vectors, evidence.frequencies
        tensors = Evidence(
            evidence.documents,
            vectors=None if vectors is None else torch.tensor(vectors, device=self.device, dtype=self.dtype),
            frequencies=None if counts is None else torch.tensor(counts, device=self.device),
        )
        return self.running.second_stage.prepare(tensors)

    @torch.inference_mode()
    def embed(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], state: State) -> NDArray[np.float32]:
        """Return unit vectors; see `Backend.embed`."""
        return _array(self.running.second_stage(*self._tensors(input_ids, mask), state))

    @torch.inference_mode()
    def embed_under(
        self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], states: Sequence[State]
    ) -> list[NDArray[np.float32]]:
        """Return unit vectors under each state; see `Backend.embed_under`."""
        second = self.running.second_stage
        ids, known = self._tensors(input_ids, mask)
        if not isinstance(second, LateSecondStage) or not states:
            return [_array(second(ids, known, state)) for state in states]
        hidden = second.hidden_states(ids, known, states[0])
        return [_array(second.contextualise(hidden, ids, known, state)) for state in states]

    @torch.inference_mode()
    def embed_first_stage(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return first-stage vectors; see `Backend.embed_first_stage`."""
        return _array(self.running.first_stage(*self._tensors(input_ids, mask)))

    def _tensors(self, *arrays: NDArray[np.int64]) -> list[Tensor]:
        device = next(self._model.parameters()).device
        return [torch.from_numpy(array).to(device) for array in arrays]

    def save(self, folder: Path, tokenizer: Tokenizer, dtype: torch.dtype | None) -> Path:
        """Write a checkpoint; see `write_checkpoint`."""
        # What was changed, or rounded when it was loaded, is no longer its source.
        whole = self._sole_owner and self.dtype == torch.float32 and dtype in (None, self.stored_dtype)
        return write_checkpoint(
            folder,
            self._model,
            tokenizer,
            dtype=dtype or self.stored_dtype,
            source_sha256=self._source_sha256 if whole else None,
        )


def _array(vectors: Tensor) -> NDArray[np.float32]:
    output: NDArray[np.float32] = vectors.float().cpu().numpy()
    return output


def default_device() -> str:
    """Return the fastest device of this machine: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_device(device: torch.device | str | None) -> torch.device:
    """Return a device that this machine has; None stands for the fastest.

    Raises:
        ConfigError: if PyTorch does not know it, or cannot use it here.
    """
    wanted = device or default_device()
    try:
        found = torch.device(wanted)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device has its own
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device is {str(device)!r}, which PyTorch {torch.__version__} cannot use here ({reason}); leave it out "
            f"for the fastest there is, {default_device()!r}"
        ) from error
    return found


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating dtype from itself or its name, such as ``"bfloat16"``.

    Raises:
        ValueError: if it is none of float32, bfloat16, float16.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is None or dtype in known.values():
        return dtype  # type: ignore[return-value]
    if dtype in known:
        return known[str(dtype)]
    also = "; 'int8' needs backend='onnx' or 'openvino'" if dtype == "int8" else ""
    raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(known)}{also}")
