"""Refuse weights that are no numbers: what a training that diverged leaves behind, or damage that no hash tells of."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from cde_retriever.errors import CheckpointError


def refuse_unreal(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse NaN and infinity; a sum shows them, and takes a hundredth of the time that loading takes.

    Args:
        folder: Where the weights are from.
        weights: Names and tensors.

    Raises:
        CheckpointError: naming the first tensor that holds one.
    """
    for name, tensor in weights:
        # The sum of large numbers may be infinite too, so then each is looked at.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{folder} holds NaN or infinity in {name}, so every vector would be NaN; if it was trained, take a "
                "checkpoint from before the loss diverged, otherwise copy it again"
            )
