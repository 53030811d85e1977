"""Compute the gradient of a whole batch in the memory of one chunk: two-stage gradient caching (paper, section 4.3).

The loss of a contrastive batch needs all its vectors, but not all its activations at once (GradCache, arXiv
2101.06983). With a first stage before the second there are two such borders, the dataset embeddings and the output
vectors, and the state a layout makes of its context (keys and values under `cached`) is a third between them:

    1. M1 over the context in chunks, no graph            -> dataset embeddings C, a leaf
    2. the second stage's state of C, with graph; its tensors become leaves.
       M2 over the texts in chunks, no graph but the last -> output vectors, a leaf
    3. the loss of the output vectors                     -> gradient at the output vectors
    4. the last chunk's graph, then M2 over the others
       again, chunk by chunk, with that gradient          -> gradient at M2's parameters and at the state
    5. the state's graph, then M1 chunk by chunk          -> gradient at C and at all other parameters

Steps 2 and 5 hold the activations of one sequence of c context tokens, whatever the batch. The gradient equals that of
plain autograd over the same computation, up to rounding, for one more forward of all texts but the last chunk's: a
chunk's activations have their place anyway, and texts that fit in one chunk go forward once.

Over several processes each one runs its share of the context and of the texts. Every process computes the whole loss
from the gathered vectors and takes the gradient of its own rows, so the sum of the processes' parameter gradients is
the gradient of the whole batch; no wrapper around the model takes part.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cde_retriever.model.evidence import Evidence
from cde_retriever.model.stages import State
from cde_retriever.model.two_stage import TwoStageModel
from cde_train.training.loss import contrastive_loss
from cde_train.training.processes import (
    add_over_processes,
    gather,
    rank_and_world,
    set_aside_gradients,
    sum_over_processes,
)

Ids = Sequence[Sequence[int]]
"""Token ids of texts, one sequence a text."""
Chunk = tuple[list[int], Tensor, Tensor]
"""Some of the texts: their rows among all, their token ids and mask, (b, s)."""


@dataclass(frozen=True)
class TwoStageBatch:
    """One process's part of a step; the context and the mask are the whole step's.

    Attributes:
        queries: Token ids, q of them.
        documents: Token ids, n = q (1 + h) of them: positives in query order, then hard negatives.
        context: Token ids of the context documents, for a first stage that is trained, or their dataset embeddings,
            (c, d), for a frozen one, or how many there are, for a model that reads nothing else of them. Empty, or 0,
            for the null context.
        false_negatives: True where a document is left out of a query's denominator, over all processes: queries and
            positives process after process, then hard negatives process after process.
        dropped: Context documents that the null context's vector replaces, (c,).
        frequencies: How many of the other context documents hold each token, (V,), for a model with term statistics.
    """

    queries: Ids
    documents: Ids
    context: Ids | Tensor | int
    false_negatives: Tensor
    dropped: Tensor | None = None
    frequencies: Tensor | None = None

    @property
    def context_documents(self) -> int:
        """How many context documents there are, c."""
        return self.context if isinstance(self.context, int) else len(self.context)

    def evidence(self, dataset_embeddings: Tensor | None) -> Evidence[Tensor]:
        """Return what the second stage is told of the context, given its dataset embeddings, (c, d)."""
        return Evidence(self.context_documents, dataset_embeddings, self.frequencies)

    def to(self, device: torch.device) -> "TwoStageBatch":
        """Return the batch with its tensors on a device."""
        return replace(
            self,
            context=self.context.to(device) if isinstance(self.context, Tensor) else self.context,
            false_negatives=self.false_negatives.to(device),
            dropped=None if self.dropped is None else self.dropped.to(device),
            frequencies=None if self.frequencies is None else self.frequencies.to(device),
        )


@dataclass(frozen=True)
class Chunking:
    """How a step runs through the model.

    Attributes:
        pad: Turns token ids into ids and mask, (b, s), arrays or tensors.
        size: Texts, and context documents, through a model at once; never changes the result.
        autocast: Makes the context manager to compute under; made anew for every chunk, because autocast remembers
            weights it has cast, and one cast without a graph would get no gradient later.
        lap: Told when a part of the step ends, by the names of `cde_train.training.laps`.
    """

    pad: Callable[[Ids], tuple[Any, Any]]
    size: int
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = field(default=contextlib.nullcontext)
    lap: Callable[[str], object] = field(default=lambda _: None)

    def chunks(self, ids: Ids) -> Iterator[Chunk]:
        """Yield rows, token ids and mask, the longest texts first, so that a chunk needs little padding."""
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        for start in range(0, len(order), self.size):
            rows = order[start : start + self.size]
            yield rows, *self.padded([ids[row] for row in rows])

    def padded(self, ids: Ids) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, (b, s)."""
        input_ids, mask = self.pad(ids)
        return torch.as_tensor(input_ids), torch.as_tensor(mask)


@dataclass(frozen=True)
class StepResult:
    """The loss of the whole batch, and the share of queries whose positive comes first."""

    loss: Tensor
    accuracy: Tensor


def cached_step(model: TwoStageModel, batch: TwoStageBatch, temperature: float, how: Chunking) -> StepResult:
    """Add the gradient of a batch's loss to the parameters, holding one chunk's activations at a time.

    Args:
        model: The model; its parameters' ``grad`` are added to, over all processes.
        batch: This process's part of the batch.
        temperature: Divides the cosine scores.
        how: Chunk size, padding and precision.

    Raises:
        ValueError: if processes hold unequal numbers of texts.
    """
    second = model.second_stage
    before = set_aside_gradients(model)

    # 1. Dataset embeddings, without a graph.
    embeddings = _dataset_embeddings(model, batch.context, how)
    context = [] if isinstance(batch.context, Tensor | int) else batch.context
    trained = bool(context) and any(p.requires_grad for p in model.first_stage.parameters())
    if embeddings is not None:
        embeddings.requires_grad_(trained)

    # 2. The state with its graph, cut off from the texts; output vectors, the last chunk's with their graph.
    with how.autocast():
        state = second.prepare(batch.evidence(embeddings), batch.dropped)
    leaves: State = tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in state)
    chunks = list(how.chunks([*batch.queries, *batch.documents]))
    outputs, last = _first_pass(second, chunks, leaves, how)
    how.lap("first pass")

    # 3. The loss of all processes' vectors, and its gradient at this process's.
    outputs.requires_grad_()
    result = _loss(outputs, batch, temperature)
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None  # of a leaf that the loss was made of
    how.lap("loss")

    # 4. The last chunk, and the others again one by one, each with the gradient at its vectors.
    _second_pass(second, chunks, leaves, last, outputs.grad, how)

    # 5. The state's graph, then the first stage again.
    reached = [(t, leaf.grad) for t, leaf in zip(state, leaves, strict=True) if leaf.grad is not None]
    if reached:
        torch.autograd.backward([t for t, _ in reached], [g for _, g in reached])
    if trained:
        assert embeddings is not None  # of the token ids that the context is here
        _first_stage_pass(model, context, embeddings, how)
    add_over_processes(before)
    how.lap("second pass")
    return StepResult(result.loss.detach(), result.accuracy)


def _first_pass(second: nn.Module, chunks: Sequence[Chunk], state: State, how: Chunking) -> tuple[Tensor, Tensor]:
    """Return the output vectors of all chunks in the order of the texts, cut off, and the last chunk's with a graph."""
    with torch.no_grad():
        found = [_embed(second, ids, mask, state, how) for _, ids, mask in chunks[:-1]]
    _, ids, mask = chunks[-1]
    last = _embed(second, ids, mask, state, how)
    rows = [row for rows, _, _ in chunks for row in rows]
    return torch.cat([*found, last]).detach()[_inverse(rows)], last


def _second_pass(
    second: nn.Module, chunks: Sequence[Chunk], state: State, last: Tensor, gradient: Tensor, how: Chunking
) -> None:
    """Go back through the last chunk's graph, and through one of each other chunk, made for it.

    Args:
        second: The second stage; its parameters and the state get gradients.
        chunks: All chunks.
        state: The state, of leaves.
        last: The last chunk's output vectors, with their graph.
        gradient: The gradient at the output vectors of all texts, (q + n, d).
        how: Precision.
    """
    again = (_embed(second, ids, mask, state, how) for _, ids, mask in reversed(chunks[:-1]))
    for (rows, _, _), vectors in zip(reversed(chunks), itertools.chain([last], again), strict=True):
        if vectors.requires_grad:
            vectors.backward(gradient[rows])  # type: ignore[no-untyped-call]


def _first_stage_pass(model: TwoStageModel, context: Ids, embeddings: Tensor, how: Chunking) -> None:
    """Go back through this process's share of the context, with what all processes found at the embeddings, (c, d)."""
    gradient = torch.zeros_like(embeddings) if embeddings.grad is None else embeddings.grad
    gradient = sum_over_processes(gradient)
    for rows, vectors in _first_stage_share(model, context, how):
        vectors.backward(gradient[rows])  # type: ignore[no-untyped-call]


def _embed(second: nn.Module, ids: Tensor, mask: Tensor, state: State, how: Chunking) -> Tensor:
    with how.autocast():
        vectors: Tensor = second(ids, mask, state)
    return vectors


def _loss(outputs: Tensor, batch: TwoStageBatch, temperature: float) -> StepResult:
    """Return the loss of the whole batch; its gradient reaches this process's output vectors, (q + n, d)."""
    count = len(batch.queries)
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    parts = [outputs[:count], outputs[count : 2 * count], outputs[2 * count :]]
    queries, positives, negatives = (gather(part) for part in parts)
    scores = queries @ torch.cat([positives, negatives]).T
    loss = contrastive_loss(scores, batch.false_negatives, temperature)
    best = scores.detach().masked_fill(_negatives_only(batch.false_negatives), -torch.inf).argmax(dim=1)
    return StepResult(loss, (best == torch.arange(len(best), device=best.device)).float().mean())


def _negatives_only(mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask.fill_diagonal_(False)
    return mask


def _inverse(order: Sequence[int]) -> Tensor:
    """Return the permutation that undoes an order."""
    return torch.argsort(torch.tensor(order))


def _dataset_embeddings(model: TwoStageModel, context: Ids | Tensor | int, how: Chunking) -> Tensor | None:
    """Return the whole context's dataset embeddings, (c, d), without a graph, each process having run its share.

    None where only the number of documents is known.
    """
    if isinstance(context, int):
        return None
    if isinstance(context, Tensor):
        return context.detach()
    width = model.config.first_stage_width
    parameter = next(model.first_stage.parameters())
    embeddings = torch.zeros(len(context), width, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        for rows, vectors in _first_stage_share(model, context, how):
            embeddings[rows] = vectors.to(embeddings.dtype)
    return sum_over_processes(embeddings)  # every row comes from one process and is zero in the others


def _first_stage_share(model: TwoStageModel, context: Ids, how: Chunking) -> Iterator[tuple[list[int], Tensor]]:
    """Yield rows of the context and their first-stage vectors, (rows, d), chunk by chunk, of this process's share."""
    rank, world = rank_and_world()
    share = range(rank, len(context), world)
    for rows, ids, mask in how.chunks([context[i] for i in share]):
        with how.autocast():
            vectors = model.first_stage(ids, mask)
        yield [share[row] for row in rows], vectors
