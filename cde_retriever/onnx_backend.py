"""A two-stage model on ONNX Runtime; needs no PyTorch, so that a server of queries can do without it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cde_retriever.checkpoint_files import CONFIG_NAME
from cde_retriever.config import ModelConfig
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.onnx_files import FIRST_STAGE, NULL_STATE, PREPARE, SECOND_STAGE, Export

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

State = tuple[NDArray[Any], ...]


class OnnxBackend:
    """Runs an export. Threads are as many as ``OMP_NUM_THREADS`` says, or as there are cores.

    Args:
        folder: The export's folder.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None takes CUDA where the installed ONNX Runtime has it.

    Raises:
        CheckpointError: if the export is incomplete or damaged.
        ConfigError: if ONNX Runtime cannot use the device.
        ImportError: if ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as missing:
            raise ImportError(
                f"backend 'onnx' needs ONNX Runtime ({missing}); install it with: pip install \"cde-retriever[onnx]\""
            ) from missing
        self.export = Export.read(folder)
        self._folder, self._runtime = folder, onnxruntime
        self._device = device or ("cuda" if PROVIDERS["cuda"] in onnxruntime.get_available_providers() else "cpu")
        self._second_stage = self._session(SECOND_STAGE)
        self._others: dict[str, Any] = {}  # needed for new contexts only, loaded when they are
        try:
            self.config = ModelConfig.from_dict(json.loads((folder / CONFIG_NAME).read_text()))
        except (ConfigError, ValueError) as error:
            raise CheckpointError(f"cannot read {folder / CONFIG_NAME} ({error}); export it again") from error

    @property
    def device(self) -> str:
        """Where the model runs."""
        return self._device

    @property
    def dimension(self) -> int:
        """Width of the output vectors."""
        return self.export.dimension

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the second stage knows."""
        return self.export.vocabulary_size

    @property
    def first_stage_width(self) -> int:
        """Width of the dataset embeddings that the second stage reads; 0 if it reads their number alone."""
        return self.export.first_stage_width

    def prepare(self, dataset_embeddings: NDArray[np.float32], frequencies: NDArray[np.float32] | None) -> State:
        """Return what the second stage makes of a context; see `Backend.prepare`."""
        names = [f"state_{i}" for i in range(self.export.states)]
        if len(dataset_embeddings) == 0:
            with np.load(self._folder / NULL_STATE, allow_pickle=False) as stored:
                return tuple(stored[name] for name in names)
        if self.first_stage_width:
            known = {"dataset_embeddings": dataset_embeddings}
        else:
            assert frequencies is not None
            known = {"frequencies": frequencies, "documents": np.array(len(dataset_embeddings), np.float32)}
        return tuple(self._other(PREPARE).run(names, known))

    def embed(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], state: State) -> NDArray[np.float32]:
        """Return unit vectors; see `Backend.embed`."""
        states = {f"state_{i}": tensor for i, tensor in enumerate(state)}
        vectors: NDArray[np.float32] = self._second_stage.run(None, {"input_ids": input_ids, "mask": mask, **states})[0]
        return vectors

    def embed_first_stage(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return first-stage vectors; see `Backend.embed_first_stage`.

        Raises:
            ConfigError: if the second stage does not read them, so that they were not exported.
        """
        if not self.first_stage_width:
            raise ConfigError(f"{self.config.name} has no use for first-stage vectors, so its export makes none")
        vectors: NDArray[np.float32] = self._other(FIRST_STAGE).run(None, {"input_ids": input_ids, "mask": mask})[0]
        return vectors

    def _other(self, name: str) -> Any:
        if name not in self._others:
            self._others[name] = self._session(name)
        return self._others[name]

    def _session(self, name: str) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        options.log_severity_level = 3
        providers = self._providers()
        try:
            return self._runtime.InferenceSession(str(self._folder / name), options, providers=providers)
        except Exception as error:  # the library raises classes of its own that derive from Exception alone
            raise CheckpointError(f"cannot read {self._folder / name} ({error}); export it again") from error

    def _providers(self) -> Sequence[Any]:
        kind, _, number = self._device.partition(":")
        there = self._runtime.get_available_providers()
        if PROVIDERS.get(kind) not in there:
            raise ConfigError(
                f"device is {self._device!r}, but the installed ONNX Runtime has {', '.join(there)}; use device='cpu', "
                "or install onnxruntime-gpu for 'cuda'"
            )
        settings = {"device_id": int(number)} if number else {}
        return [(PROVIDERS[kind], settings)]
