"""Estimate how many documents a measurement may encode for a tenth of what the training before it costs.

Both are counted in tokens through the model: queries and documents of a step, cut at the length of training, against
documents cut at the length that the model reads. The context that a step encodes too is left out, so a measurement
rather costs less.
"""

import random
from collections.abc import Sequence

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.pairs import TrainingPair
from cde_train.training.config import TrainConfig

FORWARDS_A_TEXT = 4
"""What a text costs in training, in forward passes: one without a graph, one with, and backward, which is two."""
SHARE = 0.1
_SAMPLE = 256


def affordable_documents(
    phase: TrainConfig, steps: int, pairs: Sequence[TrainingPair], encoder: ContextualEncoder
) -> float:
    """Return how many documents cost a tenth of so many steps of a phase; a sample of pairs says how long texts are."""
    drawn = random.Random(0).sample(pairs, min(_SAMPLE, len(pairs)))
    queries, documents = [pair.query for pair in drawn], [pair.document for pair in drawn]
    a_query = _mean_tokens(encoder, queries, "query", phase.train_length)
    a_document = _mean_tokens(encoder, documents, "document", phase.train_length)
    trained = steps * phase.batch_size * (a_query + (1 + phase.hard_negatives) * a_document) * FORWARDS_A_TEXT
    return SHARE * trained / _mean_tokens(encoder, documents, "document", encoder.config.max_length)


def _mean_tokens(encoder: ContextualEncoder, texts: Sequence[str], role: str, length: int) -> float:
    ids = encoder.text_tokenizer(length).tokenize(texts, role).ids
    return sum(map(len, ids)) / len(ids)
