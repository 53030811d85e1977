"""Time the parts of training steps, on devices that compute while Python goes on.

| part | what is done |
| --- | --- |
| batch | texts are tokenised, context drawn, false negatives found |
| first pass | all texts run through the model, without a graph but the last chunk |
| loss | loss, and its gradient at the vectors |
| second pass | back through all texts, which the others run through again |
| rest | between steps: clipping, optimizer, logging, saving |
| measuring | retrieval on the development set |
"""

from time import perf_counter

import torch

SECONDS = "seconds_"
"""What the names of logged times begin with."""


class Laps:
    """Seconds by part, of one step after another.

    Args:
        device: Where steps are computed; a GPU's work is waited for at the end of each part.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._began: float | None = None

    def end(self, part: str) -> None:
        """End a part; the next begins now. The first call of all ends nothing."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = perf_counter()
        if self._began is not None:
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._began
        self._began = now

    def take(self) -> dict[str, float]:
        """Return the seconds since they were last taken, named as they are logged; and begin anew."""
        taken, self._seconds = self._seconds, {}
        return {f"{SECONDS}{part.replace(' ', '_')}": seconds for part, seconds in taken.items()}
