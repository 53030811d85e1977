"""What a step sees of its pairs and of the run's settings: the mask by the paper's formula, hard negatives, context."""

import numpy as np
import pytest

from cde_train.batching.false_negatives import FilterConfig
from cde_train.data.pairs import TrainingPair
from cde_train.training.batches import BatchBuilder, TrainingSet
from cde_train.training.config import TrainConfig
from tests.tiny import WORDS, tiny_encoder

QUERIES = 8
MARGIN = -0.1


class Vectors:
    """A random unit vector for each text."""

    def __init__(self, texts):
        rng = np.random.default_rng(0)
        self.rows = {text: row / np.linalg.norm(row) for text, row in ((t, rng.normal(size=3)) for t in texts)}

    def take(self, texts):
        return np.stack([self.rows[text] for text in texts]).astype(np.float32)


def pairs_and_vectors():
    """Pairs of words with two hard negatives each; two ask the same, and two have the same document."""
    pairs = [TrainingPair(WORDS[i], WORDS[10 + i], "d", (WORDS[20 + i], WORDS[30 + i])) for i in range(QUERIES - 1)]
    pairs[2] = TrainingPair(WORDS[2], WORDS[13], "d", pairs[2].negatives)
    pairs.append(TrainingPair(WORDS[0], WORDS[18], "d", (WORDS[28], WORDS[38])))
    return pairs, Vectors(WORDS)


def built(filtering, **settings):
    pairs, vectors = pairs_and_vectors()
    data = TrainingSet(pairs, np.arange(QUERIES)[None], vectors, filtering)
    encoder = tiny_encoder()
    config = TrainConfig(batch_size=QUERIES, context_sizes=(2, 4), null_rate=0.0, **settings)
    return pairs, vectors, encoder, BatchBuilder(data, config, encoder.text_tokenizer())


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("used", [0, 1, 2])
def test_a_step_leaves_out_what_the_paper_s_formula_says_and_positives_of_the_same_query(used, enabled):
    """f(q, d') >= f(q, d) + margin over all texts of the step; of its hard negatives the pairs bring the first ones."""
    pairs, vectors, encoder, builder = built(FilterConfig(MARGIN, enabled), hard_negatives=used)
    batch = builder.build(0)
    texts = [pair.document for pair in pairs] + [text for pair in pairs for text in pair.negatives[:used]]
    assert batch.documents == encoder.tokenize(texts, "document").ids
    score = {(q.query, text): float(vectors.rows[q.query] @ vectors.rows[text]) for q in pairs for text in texts}
    for i, pair in enumerate(pairs):
        answers = {other.document for other in pairs if other.query == pair.query}
        for j, text in enumerate(texts):
            near = enabled and score[pair.query, text] >= score[pair.query, pair.document] + MARGIN
            assert bool(batch.false_negatives[i, j]) == (j != i and (near or text in answers)), (i, j)


def test_a_context_has_every_size_that_was_asked_for_and_no_other():
    _, _, _, builder = built(FilterConfig())
    rows = np.zeros((60, QUERIES), np.int64) + np.arange(QUERIES)
    many = BatchBuilder(TrainingSet(builder.data.pairs, rows), builder.config, builder.tokenizer)
    assert {many.build(step).context_documents for step in range(60)} == {2, 3, 4}
