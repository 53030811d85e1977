"""Run a two-stage model on PyTorch, on any device, in any floating dtype; this backend alone trains and saves."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from cde_retriever.backends.packed import can_pack, pack
from cde_retriever.checkpoint.checkpoint import hash_model, write_checkpoint
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.files.forking import renew_in_children
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
            until it is handed out (`open_model`).
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
        self._as_loaded = None if sole_owner else _digest(model)
        self._source_sha256 = source_sha256
        self._forked = False
        renew_in_children(self._enter_child)

    def _enter_child(self) -> None:
        """Compute without OpenMP's threads in a forked child: it waits for its parent's, which do not exist there."""
        torch.set_num_threads(1)
        self._forked = True

    @property
    def is_open(self) -> bool:
        """Whether somebody else holds the model, and may change it."""
        return self._as_loaded is not None

    def open_model(self) -> TwoStageModel:
        """Hand out the model, which may be changed from then on and runs as it is."""
        if self._as_loaded is None:
            self._as_loaded = _digest(self._model)
            self.__dict__.pop("_packed", None)
        return self._model

    def changed_sha256(self, tokenizer: Tokenizer) -> str | None:
        """Return the hash of the model as it is now; None if it is as it was loaded, or nobody could change it."""
        if self._as_loaded is None:
            return None
        now = _digest(self._model)
        if now == self._as_loaded:
            return None
        try:
            sha256 = hash_model(self._model, tokenizer, self.stored_dtype)
        except CheckpointError:  # low-rank updates beside the weights, which no checkpoint holds
            sha256 = now.stored
        if now.rest != self._as_loaded.rest:  # a stored copy will be another model
            sha256 = hashlib.sha256(f"{sha256} {now.rest}".encode()).hexdigest()
        return sha256

    @cached_property
    def _packed(self) -> TwoStageModel:
        return pack(self._model) if can_pack(self._model) else self._model

    @property
    def running(self) -> TwoStageModel:
        """What embeds texts: the model, or its packed copy; not to be changed.

        Raises:
            ConfigError: in a forked child, which cannot use an accelerator that its parent used.
        """
        if self._forked and not self.device.startswith("cpu"):
            raise ConfigError(
                f"the model is on {self.device!r}, which a forked process cannot use after its parent did; start "
                "processes with multiprocessing.get_context('spawn'), or load the model with device='cpu'"
            )
        return self._model if self.is_open else self._packed

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
        second = self.running.second_stage
        vectors, counts = evidence.vectors, evidence.frequencies
        tensors = Evidence(
            evidence.documents,
            vectors=None if vectors is None else torch.tensor(vectors, device=self.device, dtype=self.dtype),
            frequencies=None if counts is None else torch.tensor(counts, device=self.device),
        )
        return second.prepare(tensors)

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

    def save(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        dtype: torch.dtype | None,
        queries: "tuple[TorchBackend, Tokenizer] | None" = None,
    ) -> Path:
        """Write a checkpoint, with the encoder of queries if it is another; see `write_checkpoint`."""
        # What was changed, or rounded when it was loaded, is no longer its source.
        whole = (
            self.changed_sha256(tokenizer) is None
            and self.dtype == torch.float32
            and dtype in (None, self.stored_dtype)
        )
        return write_checkpoint(
            folder,
            self._model,
            tokenizer,
            dtype=dtype or self.stored_dtype,
            source_sha256=self._source_sha256 if whole else None,
            queries=None if queries is None else (queries[0]._model, queries[1]),
        )


class _Digest(NamedTuple):
    """What decides a model's vectors, as it is in memory, as sha256: of what a checkpoint stores, and of the rest."""

    stored: str
    rest: str


def _digest(model: TwoStageModel) -> _Digest:
    config = {name: value for name, value in model.config.to_dict().items() if name != "name"}
    stored, rest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()), hashlib.sha256(str(model).encode())
    names = model.state_dict().keys()
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        digest = stored if name in names else rest
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return _Digest(stored.hexdigest(), rest.hexdigest())


def _array(vectors: Tensor) -> NDArray[np.float32]:
    output: NDArray[np.float32] = vectors.float().cpu().numpy()
    return output


def default_device() -> str:
    """Return the fastest device of this machine: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_device(device: torch.device | str | None) -> torch.device:
    """Return a device that this machine has, as its tensors name it; None stands for the fastest.

    Raises:
        ConfigError: if PyTorch does not know it, or cannot use it here.
    """
    wanted = device or default_device()
    try:
        probe = torch.zeros(1, device=wanted)
        probe.cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device has its own
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device is {str(device)!r}, which PyTorch {torch.__version__} cannot use here ({reason}); leave it out "
            f"for the fastest there is, {default_device()!r}"
        ) from error
    return probe.device


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
