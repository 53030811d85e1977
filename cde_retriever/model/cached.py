"""Attend to a context whose keys and values are computed once."""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cde_retriever.errors import ConfigError
from cde_retriever.model.attention import ATTENTION_NAME, ContextReader, ContextRecorder
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.prefix import PrefixSecondStage
from cde_retriever.model.stages import State


class CachedSecondStage(PrefixSecondStage):
    """Context attends to context, text to context and text: the context's keys and values are computed once.

    A learned gate, (layers, heads), is added to the scores of context keys, together with ``-log c``. The second
    term makes the context as a whole weigh the same whatever its size: at gate 0 an average context document counts
    1/c of an average word, so an untrained model stays near its plain backbone and every c may be used. A gate of
    ``-inf`` closes the context: the output is then the plain backbone's.
    """

    attention = ATTENTION_NAME

    def __init__(self, config: ModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        sizes = self.backbone.config
        self.gate = nn.Parameter(torch.zeros(sizes.num_hidden_layers, sizes.num_attention_heads))
        self._attention_layers: tuple[nn.Module, ...] = ()

    def prepare(self, evidence: Evidence[Tensor], dropped: Tensor | None = None) -> State:
        """Return the keys and values of the context, each (1, heads, c, head width), layer after layer, and a bias.

        The bias, (layers, heads), is what is added to the scores of those keys.
        """
        prefix = self.prefix(evidence, dropped)
        recorded = self._record(prefix)
        size = prefix.new_ones(len(prefix), dtype=torch.promote_types(prefix.dtype, torch.float32)).sum()
        bias = self.gate - size.log()
        return *(tensor for pair in recorded.values() for tensor in pair), bias

    def _record(self, prefix: Tensor) -> dict[nn.Module, tuple[Tensor, Tensor]]:
        """Return each attention layer's keys and values of a prefix, (c, d), in layer order; remember the layers."""
        recorder = ContextRecorder()
        positions = torch.zeros(1, len(prefix), dtype=torch.long, device=prefix.device)
        self.backbone(inputs_embeds=prefix.unsqueeze(0), position_ids=positions, context=recorder)
        if len(recorder.layers) != len(self.gate):
            raise ConfigError(
                f"{type(self.backbone).__name__} passed the context to {len(recorder.layers)} of {len(self.gate)} "
                "layers; use context_attention 'joint' for this backbone"
            )
        self._attention_layers = tuple(recorder.layers)
        return recorder.layers

    def hidden_states(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Run the backbone over the texts alone; every layer reads the context's keys and values."""
        *pairs, bias = state
        dtype = self.backbone.dtype
        padding = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, -math.inf)
        if not self._attention_layers:  # the state was prepared by another copy of this model
            self._record(self._null())
        layers = zip(self._attention_layers, pairs[0::2], pairs[1::2], bias, strict=True)
        reader = ContextReader(
            {layer: (key, value, add) for layer, key, value, add in layers}, padding[:, None, None, :]
        )
        output: Tensor = self.backbone(input_ids=input_ids, context=reader).last_hidden_state
        return output
