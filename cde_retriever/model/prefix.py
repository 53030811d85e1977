"""Show the backbone context documents, or a learned vector for none, before a text."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cde_retriever.errors import ContextError
from cde_retriever.model.backbone import input_offset
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.stages import SecondStage


class PrefixSecondStage(SecondStage):
    """Shows the backbone context documents, or a learned vector for none, and prompt tokens, before a text."""

    def __init__(self, config: ModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        width = self.backbone.config.hidden_size
        self.null_context = None
        if config.null_context != "none":
            self.null_context = nn.Parameter(torch.zeros(1, width))
        self.prompt = nn.Parameter(0.02 * torch.randn(config.prompt_tokens, width))
        self.context_projection = None
        if config.context_projection:
            self.context_projection = nn.Linear(config.first_stage_width, width)
            nn.init.eye_(self.context_projection.weight)
            nn.init.zeros_(self.context_projection.bias)

    def enter_like_words(self) -> None:
        """Start the projection so that a context document enters the untrained backbone as a word would."""
        if self.context_projection is not None:
            self.context_projection.bias.data.copy_(-input_offset(self.backbone))

    def prefix(self, evidence: Evidence[Tensor], dropped: Tensor | None = None) -> Tensor:
        """Return the tokens that stand before a text, (c + prompt tokens, d); no documents mean the null context.

        Args:
            evidence: The context's documents, of which their vectors are read.
            dropped: True for documents which the null context's vector replaces (context dropout), (c,).
        """
        context = self._null() if evidence.documents == 0 else evidence.vectors
        assert context is not None  # a model of this kind is always given them
        if evidence.documents != 0 and self.context_projection is not None:
            context = self.context_projection(context)
        if dropped is not None and len(dropped):
            context = torch.where(dropped[:, None], self._null()[:1].to(context.dtype), context)
        return torch.cat([context, self.prompt])

    def _null(self) -> Tensor:
        """Return what stands for no context, (1, d), or in every place, (J, d)."""
        if self.null_context is None:
            raise ContextError(f"{self.config.name} has no null context; fit it a context of any texts")
        return self.null_context.expand(self.config.context_size if self.config.null_context == "repeated" else 1, -1)
