"""Run a two-stage model that was exported as graphs; the runtimes that compute them need no PyTorch.

A server of queries can do without it, and documents are embedded faster by a runtime that was made for the machine.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cde_retriever.backends.export_folder import FIRST_STAGE, FORMAT, NULL_STATE, PREPARE, SECOND_STAGE, Export
from cde_retriever.checkpoint.folder import CONFIG_NAME
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.files.forking import renew_in_children
from cde_retriever.files.records import parse_json
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence

Arrays = Mapping[str, NDArray[Any]]
Graph = Callable[[Arrays], Arrays]
"""What computes a graph's outputs of its inputs, both by name."""
State = tuple[NDArray[Any], ...]


class ExportBackend(ABC):
    """Runs an export; a subclass for each runtime knows how to open a graph (`_open`).

    Args:
        folder: The export's folder.
        device: Where to run it, in the runtime's words.

    Raises:
        CheckpointError: if the export is incomplete or damaged.
        ConfigError: if the runtime cannot use the device.
        ImportError: if the runtime is not installed.
    """

    is_open = False  # nobody changes a graph

    def __init__(self, folder: Path, device: str) -> None:
        self.export = Export.read(folder)
        self.folder, self.device, self.precision = folder, device, self.export.dtype
        self.dimension, self.vocabulary_size = self.export.dimension, self.export.vocabulary_size
        self.reads_dataset_embeddings = self.export.first_stage_width > 0
        self._graphs: dict[str, Graph] = {}  # those for new contexts are opened when they are needed
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(self.export.verify, folder)  # takes as long as opening does, so both at once
            try:
                self._graphs[SECOND_STAGE] = self._opened(SECOND_STAGE)
            finally:
                whole.result()  # says more of a damaged file than the runtime does
        renew_in_children(self._forget_graphs)
        with FORMAT.reading(folder / CONFIG_NAME):
            self.config = ModelConfig.from_dict(parse_json((folder / CONFIG_NAME).read_bytes()))

    @abstractmethod
    def _open(self, file: Path) -> Graph:
        """Return what runs a graph, on `self.device`; whatever goes wrong is the file's fault."""

    def changed_sha256(self, tokenizer: Tokenizer) -> str | None:  # noqa: ARG002
        """Return None; see `Backend.changed_sha256`."""
        return None

    def prepare(self, evidence: Evidence[NDArray[np.float32]]) -> State:
        """Return what the second stage makes of a context; see `Backend.prepare`."""
        names = [f"state_{i}" for i in range(self.export.states)]
        if not names:  # a corpus head works outside of the graphs
            return ()
        if evidence.documents == 0:
            self.export.verify(self.folder, [NULL_STATE])
            with np.load(self.folder / NULL_STATE, allow_pickle=False) as stored:
                return tuple(stored[name] for name in names)
        known: dict[str, NDArray[Any]] = {}
        if evidence.vectors is not None:
            known["dataset_embeddings"] = evidence.vectors
        if evidence.frequencies is not None:
            known |= {"frequencies": evidence.frequencies, "documents": np.array(evidence.documents, np.float32)}
        made = self._graph(PREPARE)(known)
        return tuple(made[name] for name in names)

    def embed(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], state: State) -> NDArray[np.float32]:
        """Return unit vectors; see `Backend.embed`."""
        states = {f"state_{i}": tensor for i, tensor in enumerate(state)}
        return self._graph(SECOND_STAGE)({"input_ids": input_ids, "mask": mask, **states})["vectors"]

    def embed_under(
        self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], states: Sequence[State]
    ) -> list[NDArray[np.float32]]:
        """Return unit vectors under each state; see `Backend.embed_under`. A graph runs whole."""
        return [self.embed(input_ids, mask, state) for state in states]

    def embed_first_stage(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return first-stage vectors; see `Backend.embed_first_stage`.

        Raises:
            ConfigError: if the second stage does not read them, so that they were not exported.
        """
        if not self.reads_dataset_embeddings:
            raise ConfigError(f"{self.config.name} has no use for first-stage vectors, so its export makes none")
        return self._graph(FIRST_STAGE)({"input_ids": input_ids, "mask": mask})["vectors"]

    def _forget_graphs(self) -> None:
        """Leave a parent's graphs, whose threads a forked child does not have; they are opened again there."""
        self._parents = self._graphs  # kept, since tearing them down waits for those threads
        self._graphs = {}

    def _graph(self, name: str) -> Graph:
        """Return a graph, which is opened when it is first asked for."""
        if name not in self._graphs:
            self.export.verify(self.folder, [name])  # again, because the folder may hold another export by now
            self._graphs[name] = self._opened(name)
        return self._graphs[name]

    def _opened(self, name: str) -> Graph:
        try:
            return self._open(self.folder / name)
        except Exception as error:  # each library raises classes of its own, some of them Exception itself
            reason = " ".join(str(error).split())  # OpenVINO's has many lines
            raise CheckpointError(f"cannot read {self.folder / name} ({reason}); {FORMAT.remedy}") from error


def wanted_threads() -> int:
    """Return how many threads a runtime should use: what ``OMP_NUM_THREADS`` says; 0, its own choice, if nothing.

    The variable may be a list, of which the first number counts: the others are for nested parallel parts.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0
