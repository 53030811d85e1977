"""Attend to the context with every token, as in the paper."""

import torch
from torch import Tensor

from cde_retriever.model.backbone import embed_tokens
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.prefix import PrefixSecondStage
from cde_retriever.model.stages import State


class JointSecondStage(PrefixSecondStage):
    """Every token attends to every token, as in the paper and the released weights: a forward over c + s tokens."""

    def prepare(self, evidence: Evidence[Tensor], dropped: Tensor | None = None) -> State:
        """Return the prefix, (c + prompt tokens, d); nothing else of the context can be shared between texts."""
        return (self.prefix(evidence, dropped),)

    def hidden_states(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Run the backbone over prefix and text, return the text's part."""
        batch, length = input_ids.shape
        (prefix,) = state
        size = len(prefix)
        text = embed_tokens(self.backbone, input_ids)
        sequence = torch.cat([prefix.to(text.dtype).expand(batch, -1, -1), text], dim=1)
        ones = torch.ones(batch, size, dtype=mask.dtype, device=mask.device)
        hidden: Tensor = self.backbone(
            inputs_embeds=sequence,
            attention_mask=torch.cat([ones, mask], dim=1),
            position_ids=self._positions(size, length, mask.device),
        ).last_hidden_state
        return hidden[:, size:]

    def _positions(self, size: int, length: int, device: torch.device) -> Tensor:
        """Return position ids, (1, prefix + text), under the configured scheme."""
        documents = size - self.config.prompt_tokens
        start = {"text": size, "prompt_and_text": documents, "sequence": 0}[self.config.positions]
        positions = torch.arange(size + length, device=device)
        positions[:start] = 0
        if self.config.positions == "text":
            positions[start:] -= start
        return positions.unsqueeze(0)
