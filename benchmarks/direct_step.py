"""Compute a step's gradient by plain autograd, which gradient caching is compared with."""

import torch
from torch import Tensor

from cde_retriever.model.two_stage import TwoStageModel
from cde_train.training.gradient_caching import Chunking, StepResult, TwoStageBatch
from cde_train.training.loss import contrastive_loss


def direct_step(model: TwoStageModel, batch: TwoStageBatch, temperature: float, how: Chunking) -> StepResult:
    """Do as `cached_step`, all texts and all context documents at once: memory grows with the batch."""
    context, count = batch.context, len(batch.queries)
    with how.autocast():
        embeddings = None
        if isinstance(context, Tensor):
            embeddings = context.detach()
        elif not isinstance(context, int):
            nothing = next(model.parameters()).new_zeros(0, model.config.first_stage_width)
            embeddings = model.first_stage(*how.padded(context)) if context else nothing
        state = model.second_stage.prepare(batch.evidence(embeddings), batch.dropped)
        outputs = model.second_stage(*how.padded([*batch.queries, *batch.documents]), state)
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    scores = outputs[:count] @ outputs[count:].T
    loss = contrastive_loss(scores, batch.false_negatives, temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    own = torch.arange(count)
    others = batch.false_negatives.clone()
    others[own, own] = False
    best = scores.detach().masked_fill(others, -torch.inf).argmax(dim=1)
    return StepResult(loss.detach(), (best == own).float().mean())
