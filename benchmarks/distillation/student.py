"""The student: MiniLM whose upper layers read a context, run from the stored outputs of its lower ones.

It is a `cached` model whose gate is closed in the lower layers, which stay as they are; so their outputs are those of
the plain encoder and may be stored, and the whole model gives what the upper layers give from there (tested).
"""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.model.attention import ContextReader, ContextRecorder
from cde_retriever.model.cached import CachedSecondStage
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.pooling import pool
from cde_retriever.model.stages import State
from cde_train.training.config import StartConfig
from cde_train.training.start import start_from

Vectors = NDArray[np.float32]
TOKEN_LENGTH = 13.0
"""What a unit vector is multiplied by to be as long as a token's vector between two layers; about MiniLM's."""


class Student(nn.Module):
    """Embeds texts under a context.

    Args:
        base: Folder of the plain encoder, of BERT's kind.
        frozen: How many lower layers stay as they are.
        gate: What the gate starts at in the layers above.
        enters_above: Whether context documents enter above the frozen layers, where texts read them, instead of going
            through all layers as words do; the model is then none that the product has.
    """

    def __init__(self, base: str | Path, frozen: int, gate: float, *, enters_above: bool = False) -> None:
        super().__init__()
        self.frozen, self.enters_above = frozen, enters_above
        self.encoder: ContextualEncoder = start_from(base, StartConfig("distilled", max_length=256, context_size=256))
        second = self.encoder.open_model().second_stage
        assert isinstance(second, CachedSecondStage)
        self.second = second
        nn.init.constant_(second.gate[frozen:], gate)
        nn.init.constant_(second.gate[:frozen], -torch.inf)
        self.scale = nn.Parameter(torch.tensor(12.5).log())
        self.requires_grad_(False)
        for part in (self.upper, self.second.context_projection):
            assert part is not None
            part.requires_grad_(True)
        for parameter in (second.gate, second.null_context, self.scale):
            assert parameter is not None
            parameter.requires_grad_(True)

    @property
    def upper(self) -> nn.ModuleList:
        """The layers that are trained, which read the context."""
        layers: nn.ModuleList = self.second.backbone.encoder.layer[self.frozen :]
        return layers

    def groups(self, rate: float, new_rate: float, gate_rate: float) -> list[dict[str, object]]:
        """Return what is trained, with its rates: upper layers; projection and null context; gate and scale."""
        projection, null = self.second.context_projection, self.second.null_context
        assert projection is not None
        return [
            {"params": list(self.upper.parameters()), "lr": rate},
            {"params": [*projection.parameters(), null], "lr": new_rate},
            {"params": [self.second.gate, self.scale], "lr": gate_rate},
        ]

    def read(self, context: Vectors | None) -> State:
        """Return the state of context documents' vectors, (c, d); None for the null context."""
        evidence = Evidence(0) if context is None else Evidence(len(context), torch.from_numpy(context))
        if not self.enters_above:
            *pairs, bias = self.second.prepare(evidence)
            return *pairs[2 * self.frozen :], bias[self.frozen :]
        recorder, hidden = ContextRecorder(), TOKEN_LENGTH * self.second.prefix(evidence).unsqueeze(0)
        for layer in self.upper:
            hidden = layer(hidden, None, context=recorder)
        bias = self.second.gate[self.frozen :] - math.log(hidden.shape[1])
        return *(tensor for pair in recorder.layers.values() for tensor in pair), bias

    def forward(self, texts: tuple[Vectors, NDArray[np.int64]], state: State) -> Tensor:
        """Return unit vectors, (b, d), of texts: what the lower layers gave, (b, s, d), and mask, (b, s)."""
        hidden, mask = torch.from_numpy(texts[0]), torch.from_numpy(texts[1])
        *pairs, bias = state
        attending = [layer.attention.self for layer in self.upper]
        layers = zip(attending, pairs[0::2], pairs[1::2], bias, strict=True)
        padding = torch.zeros(mask.shape).masked_fill(mask == 0, -torch.inf)[:, None, None, :]
        reader = ContextReader({layer: (key, value, add) for layer, key, value, add in layers}, padding)
        for layer in self.upper:
            hidden = layer(hidden, None, context=reader)
        return nn.functional.normalize(pool(hidden, mask, ("mean",)).float(), dim=-1)
