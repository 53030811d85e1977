"""What a checkpoint is compared with: its own backbone in sentence-transformers and fastembed, and under `joint`."""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerFast

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.training.config import StartConfig
from cde_train.training.start import start_from

BACKENDS: dict[str, dict[str, str]] = {
    "torch": {"device": "cpu"},
    "torch_bf16": {"device": "cpu", "dtype": "bfloat16"},
    "onnx": {"backend": "onnx", "device": "cpu"},
    "onnx_int8": {"backend": "onnx", "device": "cpu", "dtype": "int8"},
    "openvino_int8": {"backend": "openvino", "device": "cpu", "dtype": "int8"},
}
"""Name of a backend, as the figures call it, to what loads it."""
SERVING_BACKENDS = ("torch", "onnx", "onnx_int8")
"""Those that queries are served by; OpenVINO is for documents."""
TOLERANCE = 1e-4
OPSET = 20
GRAPH = "model.onnx"


def load_encoder(checkpoint: str | Path | None, backend: str = "torch") -> ContextualEncoder:
    """Load a checkpoint on a backend, float32 unless its name says otherwise."""
    settings: dict[str, Any] = BACKENDS[backend]
    return ContextualEncoder.from_pretrained(checkpoint, **settings)


def set_fitted_context(encoder: ContextualEncoder, documents: Sequence[str], size: int) -> None:
    """Fit a context and set it anew: the fit keeps the vectors of its documents, which would cost nothing to embed."""
    encoder.set_context(encoder.fit_context(documents[:size], context_size=size))


def write_plain_backbone(encoder: ContextualEncoder, folder: Path) -> None:
    """Write the encoder's first stage as a `transformers` folder.

    Args:
        encoder: One on PyTorch that is not measured: it runs more slowly once its model was asked for.
        folder: Where to.
    """
    encoder.open_model().first_stage.backbone.save_pretrained(folder)
    pad = encoder.tokenizer.id_to_token(int(encoder.config.first_stage.get("pad_token_id") or 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=encoder.text_tokenizer(encoder.config.max_length).tokenizer,  # cuts where we cut
        pad_token=pad,
        model_max_length=encoder.config.max_length,
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)


def sentence_transformer(folder: Path, encoder: ContextualEncoder, dtype: torch.dtype = torch.float32) -> Any:
    """Build a sentence-transformers model from a plain backbone: mean pooling, unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(folder), model_kwargs={"dtype": dtype}, max_seq_length=encoder.config.max_length)
    pooling = Pooling(int(encoder.config.first_stage["hidden_size"]), "mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").eval()


class _HiddenStates(nn.Module):
    """A backbone's last hidden states as a plain tensor."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


@torch.no_grad()
def export_plain_backbone(folder: Path) -> Path:
    """Write the graph of a plain backbone beside it."""
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(backbone.config.vocab_size, (3, 7))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _HiddenStates(backbone),
            (ids, mask),
            folder / GRAPH,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes=(free, free),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return folder / GRAPH


def fastembed_model(folder: Path, encoder: ContextualEncoder, threads: int) -> Any:
    """Build a fastembed model of the exported plain backbone: mean pooling, unit length, so many threads."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = f"local/{folder.name}"  # fastembed keeps one registry for the process
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=int(encoder.config.first_stage["hidden_size"]),
        model_file=GRAPH,
    )
    return TextEmbedding(
        name, threads=threads, providers=["CPUExecutionProvider"], specific_model_path=str(folder), cuda=False
    )


def untrained_layout(folder: Path, encoder: ContextualEncoder, layout: str) -> ContextualEncoder:
    """Write the plain backbone of a folder under another layout, ``"joint"`` or ``"cached"``, below it, and load it."""
    start = start_from(folder, StartConfig(layout, context_attention=layout, max_length=encoder.config.max_length))
    return load_encoder(start.save_pretrained(folder / layout))


def check_equal(
    encoder: ContextualEncoder, texts: Sequence[str], rivals: dict[str, Callable[[Sequence[str]], NDArray[Any]]]
) -> dict[str, float]:
    """Return the largest difference of each rival's plain vectors to those of the encoder's first stage, on PyTorch.

    Raises:
        RuntimeError: if one is larger than rounding explains; the comparison would mean nothing.
    """
    ours = encoder.encode_first_stage(texts)
    found = {name: float(np.abs(ours - embed(list(texts))).max()) for name, embed in rivals.items()}
    for name, difference in found.items():
        if difference > TOLERANCE:
            raise RuntimeError(f"the plain vectors of {name} differ by {difference:.2g}, more than {TOLERANCE}")
    return found
