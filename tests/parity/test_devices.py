"""That a training step makes every tensor where the model is, on a machine without an accelerator.

PyTorch's device ``meta`` computes shapes alone, and refuses to compute with tensors of the CPU, as CUDA and MPS do.
"""

import contextlib
from typing import Any

import pytest
import torch
import transformers.masking_utils

from cde_train.training.gradient_caching import Chunking, TwoStageBatch, cached_step
from tests.tiny import FAMILIES, HEADED, documents, tiny_encoder

PAIRS, CONTEXT = 5, 6
LAYOUTS: dict[str, dict[str, Any]] = {
    "cached": {},
    "joint": {"context_attention": "joint"},
    "late": {"context_attention": "late", "context_moments": False, "term_statistics": True, "share_backbone": True},
    "corpus head": HEADED,
}


@pytest.fixture(autouse=True)
def shapes_alone(monkeypatch):
    """Leave out what ``meta`` has not: values, of which `transformers` asks whether a mask is full, and autocast."""
    monkeypatch.setattr(transformers.masking_utils, "is_tracing", lambda *_: True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def meta_step(family: str, layout: str, frozen: bool = False, device: str = "meta") -> torch.nn.Module:
    """Take a step with the model on ``meta`` and its batch on a device; return the model with its gradients."""
    encoder = tiny_encoder(family, **LAYOUTS[layout])
    model = encoder.open_model().requires_grad_(True).to("meta")
    texts = [encoder.tokenize(documents(PAIRS, seed=seed), role).ids for seed, role in ((1, "query"), (2, "document"))]
    context: Any = CONTEXT
    if model.second_stage.reads_dataset_embeddings:
        width = model.config.first_stage_width
        context = encoder.tokenize(documents(CONTEXT, seed=3), "document").ids
        context = torch.zeros(CONTEXT, width) if frozen else context
    batch = TwoStageBatch(
        *texts,
        context,
        torch.zeros(PAIRS, PAIRS, dtype=torch.bool),
        dropped=torch.arange(CONTEXT) % 3 == 1 if layout in ("cached", "joint") else None,
        frequencies=torch.ones(encoder.vocabulary_size) if encoder.config.term_statistics else None,
    )
    pad = encoder.text_tokenizer().pad
    how = Chunking(lambda ids: tuple(torch.as_tensor(part, device="meta") for part in pad(ids)), size=3)
    cached_step(model, batch.to(torch.device(device)), 0.05, how)
    return model


@pytest.mark.parametrize("frozen", [False, True], ids=["first stage trained", "frozen"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_stays_on_the_device_of_the_model(family, layout, frozen):
    model = meta_step(family, layout, frozen)
    reached = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert any(name.startswith("second_stage") for name in reached)
    assert all(parameter.grad.is_meta for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("layout", ["cached", "joint"])
def test_negative_control_a_batch_that_stayed_behind_is_refused(layout):
    with pytest.raises(RuntimeError, match="not on the expected device"):
        meta_step("bert", layout, frozen=True, device="cpu")
