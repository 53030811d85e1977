"""Write a checkpoint as ONNX graphs (`cde_retriever.backends.export_folder`), in which a context's state is an input.

What a layout makes of a context, such as the keys and values of ``cached``, is computed by one graph and given to
another with every batch of texts, so contexts change without a new export.
"""

import contextlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cde_retriever.backends.export_folder import (
    FIRST_STAGE,
    NULL_STATE,
    PRECISIONS,
    PREPARE,
    SECOND_STAGE,
    Export,
    is_export,
)
from cde_retriever.backends.pytorch import TorchBackend
from cde_retriever.backends.quantizing import errors_only, quantize
from cde_retriever.checkpoint.checkpoint import Checkpoint
from cde_retriever.checkpoint.folder import CONFIG_NAME, QUERIES, TOKENIZER_NAME
from cde_retriever.checkpoint.kinds import holds_another
from cde_retriever.checkpoint.opening import open_model
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.errors import CheckpointError, ConfigError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.replacing import replacing_folder
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.late import LateSecondStage
from cde_retriever.model.stages import SecondStage
from cde_retriever.model.two_stage import TwoStageModel

OPSET = 20
"""With 23 the exporter writes fused attention, a tenth faster, but rotary embeddings that ONNX Runtime refuses."""
EXAMPLE_TEXTS, EXAMPLE_TOKENS, EXAMPLE_DOCUMENTS = 3, 7, 5
"""Sizes of the inputs a graph is traced with; all of them may be others later."""
Axes = dict[int, Any] | None
"""The axes of a tensor that may have other sizes than those traced; None for none."""


def export_onnx(
    source: Path, folder: Path, dtype: str = "float32", *, reading: Reading | None = None, name: str | None = None
) -> Path:
    """Write a checkpoint as ONNX; a killed process leaves the old folder or the new one.

    Args:
        source: The checkpoint's folder.
        folder: Where to; an export of the same checkpoint and dtype, whole or damaged, is replaced.
        dtype: ``"float32"`` or ``"int8"``.
        reading: What is said about a source that is no CDE checkpoint.
        name: Its name; by default that of its folder.

    Raises:
        CheckpointError: if the checkpoint is incomplete or damaged.
        ConfigError: for another dtype, an export as source, a folder that holds anything but this one's export, or a
            model with ``context_moments``: ONNX has no eigen-decomposition.
        ImportError: if ``onnx``, ``onnxscript`` or ``onnxruntime`` is not installed.
    """
    if dtype not in PRECISIONS:
        raise ConfigError(f"dtype is {dtype!r}, ONNX exports are {' or '.join(PRECISIONS)}")
    if is_export(source):
        raise ConfigError(f"{source} is an export already; copy it, or export the checkpoint that it was made from")
    if folder.is_dir() and not is_export(folder) and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something that is no export; choose another folder")
    _require_packages()
    read = open_model(source, reading or Reading(), name=name or source.resolve().name)
    if isinstance(read.model.second_stage, LateSecondStage) and read.model.second_stage.moment_head is not None:
        raise ConfigError(
            f"{read.model.config.name} uses context_moments, whose eigen-decomposition ONNX lacks; use backend='torch'"
        )
    switches = ", ".join(read.model.config.released_switches)
    if switches:
        raise ConfigError(f"{read.model.config.name} uses {switches}, which exports do not have; use backend='torch'")
    _refuse_another(folder, read, dtype)
    with replacing_folder(folder, start_empty=True) as new:
        _write_export(read, new, dtype)
        if read.queries is not None:
            (new / QUERIES).mkdir()
            _write_export(read.queries, new / QUERIES, dtype)
    return folder


def _refuse_another(folder: Path, read: Checkpoint, dtype: str) -> None:
    """Keep the export of another checkpoint or precision: indexes may be in use with it."""
    if not is_export(folder):
        return
    try:
        there = Export.read(folder)
    except CheckpointError:  # damaged or of an old format; what to do about it is this very command
        return
    if (there.checkpoint, there.dtype) != (read.sha256, dtype):
        received = f"{read.model.config.name} ({read.sha256[:12]}, {dtype})"
        raise holds_another(folder, f"{there.checkpoint[:12]}, {there.dtype}", received)


def _write_export(read: Checkpoint, folder: Path, dtype: str) -> None:
    """Write one encoder's graphs, tokenizer, configuration and record into an empty folder."""
    backend = TorchBackend(read.model, sole_owner=True)
    width = read.model.config.first_stage_width if backend.reads_dataset_embeddings else 0
    states = _write_graphs(read.model, width, folder)
    if dtype == "int8":
        for file in (SECOND_STAGE, PREPARE, FIRST_STAGE):
            if (folder / file).is_file():
                quantize(folder / file)
    read.tokenizer.save(str(folder / TOKENIZER_NAME))
    (folder / CONFIG_NAME).write_text(json.dumps(read.model.config.to_dict(), indent=2, sort_keys=True) + "\n")
    Export(
        checkpoint=read.sha256,
        dtype=dtype,
        dimension=backend.dimension,
        vocabulary_size=backend.vocabulary_size,
        first_stage_width=width,
        states=states,
        files={path.name: hash_file(path) for path in sorted(folder.iterdir())},
    ).write(folder)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ImportError(
            f'an ONNX export needs ONNX\'s packages ({missing}); install them with: pip install "cde-retriever[onnx]"'
        ) from missing


@torch.no_grad()
def _write_graphs(model: TwoStageModel, first_stage_width: int, folder: Path) -> int:
    """Write every graph and the null state; return the number of tensors of a state."""
    second = model.second_stage
    vocabulary = int(second.backbone.config.vocab_size)
    names: list[str]
    dynamic: list[Axes]
    if model.config.corpus_head is not None:  # what a context does is done outside of the graphs
        known: tuple[Tensor, ...] = ()
        names, dynamic = [], []
    elif first_stage_width:
        known = (torch.randn(EXAMPLE_DOCUMENTS, first_stage_width),)
        names = ["dataset_embeddings"]
        dynamic = [_dimensions("documents")]
    else:
        known = (torch.zeros(vocabulary), torch.tensor(float(EXAMPLE_DOCUMENTS)))
        names = ["frequencies", "documents"]
        dynamic = [None, None]
    prepare = _Prepare(second)
    state = prepare(*known) if known else ()
    outputs = [f"state_{i}" for i in range(len(state))]
    if known:
        _export(prepare, known, folder / PREPARE, names, outputs, (tuple(dynamic),))
    null = second.prepare(Evidence(0, torch.zeros(0, first_stage_width)))
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(outputs, null, strict=True)}
    np.savez(folder / NULL_STATE, **arrays)

    ids = torch.randint(vocabulary, (EXAMPLE_TEXTS, EXAMPLE_TOKENS))
    mask = torch.ones_like(ids)
    mask[0, EXAMPLE_TOKENS // 2 :] = 0
    texts = (_dimensions("texts", "tokens"),) * 2
    free = tuple(_changing(one, other) for one, other in zip(state, null, strict=True))
    shapes = (*texts, free) if free else texts
    inputs = ["input_ids", "mask", *outputs]
    _export(_Embed(second), (ids, mask, *state), folder / SECOND_STAGE, inputs, ["vectors"], shapes)
    if first_stage_width:
        _export(model.first_stage, (ids, mask), folder / FIRST_STAGE, ["input_ids", "mask"], ["vectors"], texts)
    return len(state)


class _Prepare(nn.Module):
    """The context's part of a second stage."""

    def __init__(self, second: SecondStage) -> None:
        super().__init__()
        self.second = second

    def forward(self, *known: Tensor) -> tuple[Tensor, ...]:
        """Return the state."""
        if self.second.reads_dataset_embeddings:
            (vectors,) = known
            return self.second.prepare(Evidence(vectors.shape[0], vectors))
        frequencies, documents = known
        return self.second.prepare(Evidence(documents, frequencies=frequencies))


class _Embed(nn.Module):
    """The texts' part of a second stage."""

    def __init__(self, second: SecondStage) -> None:
        super().__init__()
        self.second = second

    def forward(self, input_ids: Tensor, mask: Tensor, *state: Tensor) -> Tensor:
        """Return unit vectors."""
        vectors: Tensor = self.second(input_ids, mask, state)
        return vectors


def _dimensions(*names: str) -> Axes:
    return {axis: torch.export.Dim.DYNAMIC for axis, _ in enumerate(names)}


def _changing(one: Tensor, other: Tensor) -> Axes:
    """Say which axes of a state change with the context: those where two contexts of unequal size differ."""
    axes = [axis for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b]
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None


def _export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    file: Path,
    names: list[str],
    outputs: list[str],
    dynamic: tuple[Axes | tuple[Axes, ...], ...],
) -> None:
    """Trace a module and write its graph; `dynamic` are the axes of each of its arguments, as torch takes them."""
    # The logger tells of operators of packages that play no part.
    with errors_only("torch.onnx"), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs),
            file,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _forget_source(file)


def _forget_source(file: Path) -> None:
    """Take out of a graph where in the source its nodes come from: it names folders of this machine."""
    import onnx

    def clear(message: Any) -> None:
        for field, value in message.ListFields():
            if field.name in ("metadata_props", "doc_string"):
                message.ClearField(field.name)
            elif field.message_type is not None:
                for part in value if isinstance(value, Sequence) else [value]:
                    clear(part)

    model = onnx.load(file)
    clear(model)
    onnx.save(model, file)
