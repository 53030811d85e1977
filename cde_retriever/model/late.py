"""Show the context to a plain encoder's output alone."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cde_retriever.model.config import ModelConfig
from cde_retriever.model.evidence import Evidence
from cde_retriever.model.moments import MomentHead
from cde_retriever.model.pooling import POOLED, pool
from cde_retriever.model.stages import SecondStage, State
from cde_retriever.model.terms import TermHead


class LateSecondStage(SecondStage):
    """A plain encoder, whose output alone meets the context.

    Token vectors are pooled by what the context's term statistics say of the tokens, if the model uses these; the
    pooled vector is moved by mean and covariance of the context's documents, if it uses those, for which both stages
    must give vectors of one space. Untrained and without term statistics, the output is the plain encoder's.
    """

    attention = None

    def __init__(self, config: ModelConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        settings = self.backbone.config
        self.moment_head = MomentHead(config.plain_width) if config.context_moments else None
        self.term_head = None
        if config.term_statistics:
            self.term_head = TermHead(
                settings.vocab_size, settings.hidden_size, config.sketch_width, config.term_shrinkage
            )

    @property
    def reads_dataset_embeddings(self) -> bool:
        """Whether moments are used."""
        return self.moment_head is not None

    def prepare(self, evidence: Evidence[Tensor], dropped: Tensor | None = None) -> State:
        """Return what is used of: the context's mean, (d,), and whitening, (d, d); what each token says in it, (V,).

        Dropped documents are left out of all of them.
        """
        state: State = ()
        if self.moment_head is not None:
            vectors = evidence.vectors
            assert vectors is not None  # `reads_dataset_embeddings`
            state = self.moment_head.moments(vectors if dropped is None else vectors[~dropped])
        if self.term_head is None:
            return state
        documents = evidence.documents if dropped is None else int((~dropped).sum())
        frequencies = evidence.frequencies
        if frequencies is None:
            frequencies = torch.zeros_like(self.term_head.log_prior)
        return *state, self.term_head.information(frequencies, documents)

    def hidden_states(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:  # noqa: ARG002
        """Run the backbone over the texts alone."""
        read = mask if self.config.pool_prompt else (mask != 0).to(mask.dtype)
        output: Tensor = self.backbone(input_ids=input_ids, attention_mask=read).last_hidden_state
        return output

    def forward(self, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return unit vectors, (b, d) or with a sketch (b, d + m), of tokenised texts, (b, s)."""
        return self.contextualise(self.hidden_states(input_ids, mask, state), input_ids, mask, state)

    def contextualise(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, state: State) -> Tensor:
        """Return what `forward` does, of last hidden states, (b, s, d), which are the same under every context."""
        if self.term_head is not None:
            terms = self.term_head.read(input_ids, (mask == POOLED).to(mask.dtype), state[-1])
        if self.term_head is not None and self.config.pooling == ("mean",):
            pooled = self.term_head.pool(hidden, terms)
        else:  # ways of pooling other than the mean leave no room for weights
            pooled = pool(hidden, mask, self.config.pooling)
        vectors = nn.functional.normalize(self.output_head(self.projection(pooled)), dim=-1)
        if self.moment_head is not None:
            vectors = self.moment_head(vectors, state[0], state[1])
        if self.term_head is not None:
            vectors = self.term_head.join(vectors, hidden, terms)
        return vectors
