"""Write a checkpoint as ONNX graphs (`cde_retriever.backends.export_folder`), in which a context's state is an input.

What a layout makes of a context, such as the keys and values of ``cached``, is computed by one graph and given to
another with every batch of texts, so contexts change without a new export.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
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
from cde_retriever.checkpoint.checkpoint import Checkpoint
from cde_retriever.checkpoint.folder import CONFIG_NAME, QUERIES, TOKENIZER_NAME
from cde_retriever.checkpoint.opening import open_model
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.errors import ConfigError
from cde_retriever.files.hashing import hash_file
from cde_retriever.files.replacing import replacing_folder
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.late import LateSecondStage
from cde_retriever.model.stages import SecondStage
from cde_retriever.model.two_stage import TwoStageModel

OPSET = 20
"""With 23 the exporter writes fused attention, a tenth faster, but rotary embeddings that ONNX Runtime refuses."""
BLOCK = 64
EIGHT_BIT_INPUTS = 4
"""ONNX Runtime's name for a product whose inputs are rounded to 8 bits too."""
EXAMPLE_TEXTS, EXAMPLE_TOKENS, EXAMPLE_DOCUMENTS = 3, 7, 5
"""Sizes of the inputs a graph is traced with; all of them may be others later."""


def export_onnx(
    source: Path, folder: Path, dtype: str = "float32", *, reading: Reading | None = None, name: str | None = None
) -> Path:
    """Write a checkpoint as ONNX; a killed process leaves the old folder or the new one.

    Args:
        source: The checkpoint's folder.
        folder: Where to; what was exported there before is replaced.
        dtype: ``"float32"`` or ``"int8"``.
        reading: What is said about a source that is no CDE checkpoint.
        name: Its name; by default that of its folder.

    Raises:
        CheckpointError: if the checkpoint is incomplete or damaged.
        ConfigError: for another dtype, an export as source, a folder that holds anything but one, or a model with
            ``context_moments``: ONNX has no eigen-decomposition.
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
    with replacing_folder(folder, start_empty=True) as new:
        _write_export(read, new, dtype)
        if read.queries is not None:
            (new / QUERIES).mkdir()
            _write_export(read.queries, new / QUERIES, dtype)
    return folder


def _write_export(read: Checkpoint, folder: Path, dtype: str) -> None:
    """Write one encoder's graphs, tokenizer, configuration and record into an empty folder."""
    backend = TorchBackend(read.model, sole_owner=True)
    width = read.model.config.first_stage_width if backend.reads_dataset_embeddings else 0
    states = _write_graphs(read.model, width, folder)
    if dtype == "int8":
        for file in (SECOND_STAGE, PREPARE, FIRST_STAGE):
            if (folder / file).is_file():
                _quantize(folder / file)
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
    dynamic: list[dict[int, Any] | None]
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
        _export(prepare, known, folder / PREPARE, names, outputs, dynamic)
    null = second.prepare(Evidence(0, torch.zeros(0, first_stage_width)))
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(outputs, null, strict=True)}
    np.savez(folder / NULL_STATE, **arrays)

    ids = torch.randint(vocabulary, (EXAMPLE_TEXTS, EXAMPLE_TOKENS))
    mask = torch.ones_like(ids)
    mask[0, EXAMPLE_TOKENS // 2 :] = 0
    texts = [_dimensions("texts", "tokens")] * 2
    free = [_changing(one, other) for one, other in zip(state, null, strict=True)]
    _export(
        _Embed(second), (ids, mask, *state), folder / SECOND_STAGE, ["input_ids", "mask", *outputs], ["vectors"],
        [*texts, *free],
    )  # fmt: skip
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


def _dimensions(*names: str) -> dict[int, Any]:
    return {axis: torch.export.Dim.DYNAMIC for axis, _ in enumerate(names)}


def _changing(one: Tensor, other: Tensor) -> dict[int, Any] | None:
    """Say which axes of a state change with the context: those where two contexts of unequal size differ."""
    axes = [axis for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b]
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC) or None


def _export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    file: Path,
    names: list[str],
    outputs: list[str],
    dynamic: Sequence[dict[int, Any] | None],
) -> None:
    """Trace a module and write its graph."""
    variadic = isinstance(module, _Prepare)
    shapes: Any = (tuple(dynamic),) if variadic else tuple(dynamic)
    if isinstance(module, _Embed):
        shapes = (*dynamic[:2], tuple(dynamic[2:])) if dynamic[2:] else tuple(dynamic)
    # The logger tells of operators of packages that play no part.
    with _errors_only("torch.onnx"), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs),
            file,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=shapes,
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


@contextlib.contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """Let a library's logger tell of errors alone."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _quantize(file: Path) -> None:
    """Replace a graph by one whose matrices have 8 bits, with a scale for every `BLOCK` weights of a column.

    Inputs get scales for as many numbers as they come, so a text's vector does not depend on its batch. Scales of whole
    tensors are faster by a fifth, but lose four times as much of the vectors (docs/log.md). Tables of word vectors are
    stored in half precision; products with vectors, such as the heads', stay as they are.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(file)
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    others = [node.name for node in model.graph.node if node.op_type == "MatMul" and not matrices & set(node.input)]
    _halve_tables(model.graph)
    with _errors_only("onnxruntime.quantization.matmul_nbits_quantizer"):  # it tells of every node
        quantizer = MatMulNBitsQuantizer(
            model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=EIGHT_BIT_INPUTS, nodes_to_exclude=others
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(file))


def _halve_tables(graph: Any) -> None:
    """Store tables that rows are gathered from in half precision, and widen the rows."""
    from onnx import TensorProto, helper, numpy_helper

    tables = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    for number, node in reversed(list(enumerate(graph.node))):
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        if table.data_type == TensorProto.FLOAT:
            table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table).astype(np.float16), table.name))
        rows = node.output[0]
        node.output[0] = f"{rows}_half"
        graph.node.insert(number + 1, helper.make_node("Cast", [f"{rows}_half"], [rows], to=TensorProto.FLOAT))
