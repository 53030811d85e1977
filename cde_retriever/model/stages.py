"""Embed context documents by themselves (M1), and define what every second stage (M2) does."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from cde_retriever.model.backbone import build_backbone
from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.pooling import after_token, pool
from cde_retriever.model.projection import Projection

State = tuple[Tensor, ...]
"""What a layout makes of a context; a function of the evidence and the second stage's parameters alone."""


class FirstStage(nn.Module):
    """M1: embeds each context document by itself.

    Args:
        config: Architecture.
        shared: The second stage, if both stages are to be one encoder.
    """

    def __init__(self, config: ModelConfig, shared: "SecondStage | None" = None) -> None:
        super().__init__()
        attention = None if config.context_attention == "late" else "sdpa"
        self.backbone = build_backbone(config.first_stage, attention) if shared is None else shared.backbone
        self.pooling, self.pool_prompt = config.pooling, config.pool_prompt
        self.projection = Projection(config.projection) if shared is None else shared.projection
        width = config.first_stage_width
        self.mlp = None
        if config.first_stage_head == "mlp":
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.normalize = config.normalize_first_stage

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return dataset embeddings, (c, d), of tokenised context documents, (c, s)."""
        read = mask if self.pool_prompt else (mask != 0).to(mask.dtype)
        hidden = self.backbone(input_ids=input_ids, attention_mask=read).last_hidden_state
        pooled = self.projection(pool(hidden, mask, self.pooling))
        if self.mlp is not None:
            pooled = self.mlp(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


class OutputHead(nn.Module):
    """What follows pooling: nothing, an MLP, or an MLP added to its input (which starts as the identity)."""

    def __init__(self, kind: str, width: int, activation: str = "gelu") -> None:
        super().__init__()
        self.residual = kind == "residual_mlp"
        self.mlp = None
        if kind != "none":
            last = nn.Linear(width, width)
            if self.residual:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU() if activation == "gelu" else nn.ReLU(), last)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled vectors, (b, d), to output vectors, (b, d)."""
        if self.mlp is None:
            return pooled
        output: Tensor = self.mlp(pooled)
        return pooled + output if self.residual else output


class SecondStage(nn.Module):
    """M2: embeds texts given a context.

    Every layout prepares what is known of a context into a state (`prepare`) and embeds texts under it (`forward`).

    Args:
        config: Architecture.
        backbone: A pretrained encoder of that architecture; None for one with random weights.
    """

    attention: str | None = "sdpa"

    def __init__(self, config: ModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.second_stage, self.attention) if backbone is None else backbone
        self.projection = Projection(config.projection)
        self.output_head = OutputHead(config.output_head, config.plain_width, config.output_activation)
        if not config.embedding_norm:
            self.backbone.get_submodule("embeddings").norm = nn.Identity()

    @property
    def reads_dataset_embeddings(self) -> bool:
        """Whether the first stage's vectors of the context play a part."""
        return True

    def enter_like_words(self) -> None:
        """Start what leads context documents into an untrained backbone so that they enter as words would."""

    def prepare(self, evidence: Evidence[Tensor], dropped: Tensor | None = None) -> State:
        """Turn what is known of a context into what `forward` needs of it.

        Args:
            evidence: The context's documents; frequencies are of those that are not dropped.
            dropped: True for documents that count as the null context does, (c,) (context dropout; training only).
        """
        raise NotImplementedError

    def hidden_states(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return the text tokens' last hidden states, (b, s, d)."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return unit vectors, (b, d), of tokenised texts, (b, s), given a prepared context."""
        hidden, token = self.hidden_states(input_ids, mask, state), self.config.pool_after_token
        pooled = pool(hidden, mask if token is None else after_token(input_ids, mask, token), self.config.pooling)
        return nn.functional.normalize(self.output_head(pooled), dim=-1)
