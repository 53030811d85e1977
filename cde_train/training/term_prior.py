"""Estimate how common each token is anywhere, before a model with term statistics sees a corpus."""

from collections.abc import Mapping, Sequence

import torch

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.encoder.tokens import count_documents
from cde_retriever.model.late import LateSecondStage
from cde_retriever.model.terms import TermHead

DOCUMENTS_PER_DOMAIN = 1000
LEAST_SHARE = 1e-5
"""What a token's share of documents is at least; tokens that no document holds have this one."""


def estimate_prior(encoder: ContextualEncoder, documents_by_domain: Mapping[str, Sequence[str]]) -> None:
    """Set a model's prior from the training documents, unless it has one.

    A token's share of documents is averaged over domains, so that large ones do not drown small ones; of each domain
    the first `DOCUMENTS_PER_DOMAIN` distinct documents are counted.

    Args:
        encoder: A model with term statistics; its prior is changed in place.
        documents_by_domain: Distinct documents, by the corpus they belong to.
    """
    head = term_head(encoder)
    if head.has_prior:
        return
    tokenizer = encoder.text_tokenizer(encoder.config.max_length)
    shares = torch.zeros(encoder.vocabulary_size, dtype=torch.float64)
    for documents in documents_by_domain.values():
        ids = tokenizer.tokenize(documents[:DOCUMENTS_PER_DOMAIN], "document").ids
        shares += torch.from_numpy(count_documents(ids, encoder.vocabulary_size)) / len(ids)
    shares = (shares / len(documents_by_domain)).clamp_min(LEAST_SHARE)
    head.log_prior.copy_(shares.log())


def term_head(encoder: ContextualEncoder) -> TermHead:
    """Return the head that reads term statistics.

    Raises:
        ValueError: if the model has none.
    """
    second = encoder.open_model().second_stage
    if not isinstance(second, LateSecondStage) or second.term_head is None:
        raise ValueError(f"{encoder.config.name} has no term statistics")
    return second.term_head
