"""The two-stage model (paper, section 4.2).

    phi(d; D) = M2( M1(d^1) ... M1(d^J),  E(d_1) ... E(d_T) )        document, T tokens
    psi(q; D) = M2( M1(d^1) ... M1(d^J),  E(q_1) ... E(q_T) )        query, same M2, same context

`FirstStage` (M1) turns context documents into dataset embeddings, (J, d). A `SecondStage` (M2) first prepares those
into a state of its own, which depends on the context alone, and then embeds any number of texts given that state.
The subclasses of `SecondStage` are the places where text can see the context; `LAYOUTS` names them. A further one
adds a class and a name, nothing else.

Shapes: b texts, s tokens, c context documents, d width. Dropout is off in both stages (paper, section 4.2).
"""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cde_retriever.attention import ATTENTION_NAME, ContextReader, ContextRecorder
from cde_retriever.backbone import build_backbone, embed_tokens, input_offset
from cde_retriever.config import ModelConfig
from cde_retriever.errors import ConfigError
from cde_retriever.late import MomentHead
from cde_retriever.pooling import mean_pool
from cde_retriever.terms import TermHead

State = tuple[Tensor, ...]
"""What a layout makes of a context; a function of the dataset embeddings and the second stage's parameters alone."""


class FirstStage(nn.Module):
    """M1: embeds each context document by itself.

    Args:
        config: Architecture.
        backbone: The second stage's, if both stages are to be one encoder.
    """

    def __init__(self, config: ModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.backbone = build_backbone(config.first_stage) if backbone is None else backbone
        self.normalize = config.normalize_first_stage

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return dataset embeddings, (c, d), of tokenised context documents, (c, s)."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
        pooled = mean_pool(hidden, mask)
        return nn.functional.normalize(pooled, dim=-1) if self.normalize else pooled


class OutputHead(nn.Module):
    """What follows pooling: nothing, an MLP, or an MLP added to its input (which starts as the identity)."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.residual = kind == "residual_mlp"
        self.mlp = None
        if kind != "none":
            last = nn.Linear(width, width)
            if self.residual:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), last)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled vectors, (b, d), to output vectors, (b, d)."""
        if self.mlp is None:
            return pooled
        output: Tensor = self.mlp(pooled)
        return pooled + output if self.residual else output


class SecondStage(nn.Module):
    """M2: embeds texts given a context.

    Every layout prepares the dataset embeddings into a state (`prepare`) and embeds texts under it (`forward`).
    """

    attention = "sdpa"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.second_stage, self.attention)
        self.output_head = OutputHead(config.output_head, self.backbone.config.hidden_size)

    @property
    def reads_dataset_embeddings(self) -> bool:
        """Whether the first stage's vectors of the context play a part, or their number alone does."""
        return True

    def enter_like_words(self) -> None:
        """Start what leads context documents into an untrained backbone so that they enter as words would."""

    def prepare(
        self, dataset_embeddings: Tensor, dropped: Tensor | None = None, frequencies: Tensor | None = None
    ) -> State:
        """Turn what is known of a context into what `forward` needs of it.

        Args:
            dataset_embeddings: First-stage vectors, (c, d); c = 0 for the null context.
            dropped: True for documents that count as the null context does, (c,) (context dropout; training only).
            frequencies: How many of the documents that are not dropped hold each token, (V,); only for models with
                `term_statistics`. None stands for no document.
        """
        raise NotImplementedError

    def hidden_states(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return the text tokens' last hidden states, (b, s, d)."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return unit vectors, (b, d), of tokenised texts, (b, s), given a prepared context."""
        pooled = mean_pool(self.hidden_states(input_ids, mask, state), mask)
        return nn.functional.normalize(self.output_head(pooled), dim=-1)


class PrefixSecondStage(SecondStage):
    """Shows the backbone context documents, or a learned vector for none, and prompt tokens, before a text."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = self.backbone.config.hidden_size
        self.null_context = nn.Parameter(torch.zeros(1, width))
        self.prompt = nn.Parameter(0.02 * torch.randn(config.prompt_tokens, width))
        self.context_projection = None
        if config.context_projection:
            self.context_projection = nn.Linear(config.first_stage["hidden_size"], width)
            nn.init.eye_(self.context_projection.weight)
            nn.init.zeros_(self.context_projection.bias)

    def enter_like_words(self) -> None:
        """Start the projection so that a context document enters the untrained backbone as a word would."""
        if self.context_projection is not None:
            self.context_projection.bias.data.copy_(-input_offset(self.backbone))

    def prefix(self, dataset_embeddings: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Return the tokens that stand before a text, (c + prompt tokens, d); no documents mean the null context.

        Args:
            dataset_embeddings: First-stage vectors, (c, d).
            dropped: True for documents which the null context's vector replaces (context dropout), (c,).
        """
        context = dataset_embeddings
        if len(dataset_embeddings) == 0:
            context = self.null_context
        elif self.context_projection is not None:
            context = self.context_projection(dataset_embeddings)
        if dropped is not None and len(dropped):
            context = torch.where(dropped[:, None], self.null_context.to(context.dtype), context)
        return torch.cat([context, self.prompt])


class CachedSecondStage(PrefixSecondStage):
    """Context attends to context, text to context and text: the context's keys and values are computed once.

    A learned gate, (layers, heads), is added to the scores of context keys, together with ``-log c``. The second
    term makes the context as a whole weigh the same whatever its size: at gate 0 an average context document counts
    1/c of an average word, so an untrained model stays near its plain backbone and every c may be used. A gate of
    ``-inf`` closes the context: the output is then the plain backbone's.
    """

    attention = ATTENTION_NAME

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        backbone = self.backbone.config
        self.gate = nn.Parameter(torch.zeros(backbone.num_hidden_layers, backbone.num_attention_heads))
        self._attention_layers: tuple[nn.Module, ...] = ()

    def prepare(
        self,
        dataset_embeddings: Tensor,
        dropped: Tensor | None = None,
        frequencies: Tensor | None = None,  # noqa: ARG002
    ) -> State:
        """Return the keys and values of the context, each (1, heads, c, head width), layer after layer, and a bias.

        The bias, (layers, heads), is what is added to the scores of those keys.
        """
        prefix = self.prefix(dataset_embeddings, dropped)
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
            self._record(self.null_context)
        layers = zip(self._attention_layers, pairs[0::2], pairs[1::2], bias, strict=True)
        reader = ContextReader(
            {layer: (key, value, add) for layer, key, value, add in layers}, padding[:, None, None, :]
        )
        output: Tensor = self.backbone(input_ids=input_ids, context=reader).last_hidden_state
        return output


class JointSecondStage(PrefixSecondStage):
    """Every token attends to every token, as in the paper and the released weights: a forward over c + s tokens."""

    def prepare(
        self,
        dataset_embeddings: Tensor,
        dropped: Tensor | None = None,
        frequencies: Tensor | None = None,  # noqa: ARG002
    ) -> State:
        """Return the prefix, (c + prompt tokens, d); nothing else of the context can be shared between texts."""
        return (self.prefix(dataset_embeddings, dropped),)

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


class LateSecondStage(SecondStage):
    """A plain encoder, whose output alone meets the context.

    Token vectors are pooled by what the context's term statistics say of the tokens, if the model uses these; the
    pooled vector is moved by mean and covariance of the context's documents, if it uses those, for which both stages
    must give vectors of one space. Untrained and without term statistics, the output is the plain encoder's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        settings = self.backbone.config
        self.moment_head = MomentHead(settings.hidden_size) if config.context_moments else None
        self.term_head = None
        if config.term_statistics:
            self.term_head = TermHead(
                settings.vocab_size, settings.hidden_size, config.sketch_width, config.term_shrinkage
            )

    @property
    def reads_dataset_embeddings(self) -> bool:
        """Whether moments are used."""
        return self.moment_head is not None

    def prepare(
        self, dataset_embeddings: Tensor, dropped: Tensor | None = None, frequencies: Tensor | None = None
    ) -> State:
        """Return what is used of: the context's mean, (d,), and whitening, (d, d); what each token says in it, (V,).

        Dropped documents are left out of all of them.
        """
        context = dataset_embeddings if dropped is None else dataset_embeddings[~dropped]
        state: State = () if self.moment_head is None else self.moment_head.moments(context)
        if self.term_head is None:
            return state
        if frequencies is None:
            frequencies = torch.zeros_like(self.term_head.log_prior)
        return *state, self.term_head.information(frequencies, len(context))

    def hidden_states(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:  # noqa: ARG002
        """Run the backbone over the texts alone."""
        output: Tensor = self.backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return output

    def forward(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return unit vectors, (b, d) or with a sketch (b, d + m), of tokenised texts, (b, s)."""
        return self.contextualise(self.hidden_states(input_ids, mask, state), input_ids, mask, state)

    def contextualise(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return what `forward` does, of last hidden states, (b, s, d), which are the same under every context."""
        if self.term_head is None:
            pooled = mean_pool(hidden, mask)
        else:
            terms = self.term_head.read(input_ids, mask, state[-1])
            pooled = self.term_head.pool(hidden, terms)
        vectors = nn.functional.normalize(self.output_head(pooled), dim=-1)
        if self.moment_head is not None:
            vectors = self.moment_head(vectors, state[0], state[1])
        if self.term_head is not None:
            vectors = self.term_head.join(vectors, hidden, terms)
        return vectors


LAYOUTS: dict[str, type[SecondStage]] = {
    "cached": CachedSecondStage,
    "joint": JointSecondStage,
    "late": LateSecondStage,
}


class TwoStageModel(nn.Module):
    """Both stages and nothing else; texts come as token ids.

    Args:
        config: Architecture; weights are random until a checkpoint is loaded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.second_stage = LAYOUTS[config.context_attention](config)
        self.first_stage = FirstStage(config, self.second_stage.backbone if config.share_backbone else None)
        if config.share_word_embeddings:
            self.first_stage.backbone.set_input_embeddings(self.second_stage.backbone.get_input_embeddings())
        self.eval()

    @property
    def dimension(self) -> int:
        """Width of the output vectors."""
        return int(self.second_stage.backbone.config.hidden_size) + self.config.sketch_width

    def stored_state(self) -> dict[str, Tensor]:
        """Return the state to store: every tensor once, what the stages share under the second stage."""
        state = self.state_dict()
        if self.config.share_backbone:
            return {name: tensor for name, tensor in state.items() if not name.startswith("first_stage.backbone.")}
        if self.config.share_word_embeddings:
            shared = self.second_stage.backbone.get_input_embeddings().weight
            for name, parameter in self.named_parameters(remove_duplicate=False):
                if parameter is shared and name.startswith("first_stage."):
                    del state[name]
        return state
