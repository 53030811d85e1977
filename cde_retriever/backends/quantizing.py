"""Give the graphs of an export 8-bit matrices."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 64
EIGHT_BIT_INPUTS = 4
"""ONNX Runtime's name for a product whose inputs are rounded to 8 bits too."""


def quantize(file: Path) -> None:
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
    with errors_only("onnxruntime.quantization.matmul_nbits_quantizer"):  # it tells of every node
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


@contextlib.contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Let a library's logger tell of errors alone."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
