"""Say which model to load and how to run it, in one value that is passed on as it is."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cde_retriever.checkpoint.folder import bundled_names
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.context.whole_numbers import whole_number
from cde_retriever.errors import ConfigError

if TYPE_CHECKING:  # a server of queries runs without PyTorch
    import torch

ALL_ITS_OWN = Reading()
BACKENDS = ("torch", "onnx", "openvino")


@dataclass(frozen=True)
class ModelSpec:
    """A model and how to run it; `ContextualEncoder.from_spec` loads it.

    Attributes:
        name, revision, device, dtype, backend, truncate_dim: As `ContextualEncoder.from_pretrained` takes them; devices
            and dtypes by their names.
        reading: What is said about a model that is no CDE checkpoint.

    Raises:
        ConfigError: for an unknown backend, or a `truncate_dim` below 1.
    """

    name: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    backend: str | None = None
    truncate_dim: int | None = None
    reading: Reading = ALL_ITS_OWN

    def __post_init__(self) -> None:
        """Validate what does not depend on the model."""
        if self.backend not in (None, *BACKENDS):
            raise ConfigError(f"backend is {self.backend!r}, expected {', '.join(map(repr, BACKENDS))}")
        if self.truncate_dim is not None:
            whole_number("truncate_dim", self.truncate_dim, 1)

    def for_stored(self, maker: str | None) -> "ModelSpec":
        """Return the spec for what is stored already: of the default, the bundled model that made it.

        Args:
            maker: Name of the model that made it; None if nothing is stored.
        """
        return replace(self, name=maker) if self.name is None and maker in bundled_names() else self

    @classmethod
    def of(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | str | None" = None,
        backend: str | None = None,
        truncate_dim: int | None = None,
        **said: Any,
    ) -> "ModelSpec":
        """Make a spec of what users pass: paths, and PyTorch's own devices and dtypes, become their names.

        What is said about a model that is no CDE checkpoint is given by the names that `Reading` has for it.
        """
        return cls(
            name=None if name is None else os.fspath(name),
            revision=revision,
            device=None if device is None else str(device),
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            backend=backend,
            truncate_dim=truncate_dim,
            reading=Reading(**said),
        )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `of` that give this spec, the name left out; embeddings of adapters take them too."""
        run = {name: getattr(self, name) for name in ("revision", "device", "dtype", "backend", "truncate_dim")}
        said = ("pooling", "max_length", "variant", "long_texts", "vector_size", "context_for")
        read, prompts = {name: getattr(self.reading, name) for name in said}, self.reading.prompts
        return {**run, **read, "prompts": None if prompts is None else dict(prompts)}
