"""How many documents a measurement may encode, counted by hand."""

from dataclasses import replace

import pytest

from cde_train.data.pairs import TrainingPair
from cde_train.run.costs import affordable_documents
from cde_train.training.config import TrainConfig
from tests.tiny import WORDS, tiny_encoder


def test_a_tenth_of_the_training_is_counted_in_tokens():
    pair = TrainingPair(" ".join(WORDS[:3]), " ".join(WORDS[:20]), "domain")  # 5 and 22 tokens, with both ends
    phase, encoder = TrainConfig(batch_size=8, train_length=12), tiny_encoder(max_length=16)
    assert affordable_documents(phase, 10, [pair] * 3, encoder) == pytest.approx(0.1 * 10 * 8 * (5 + 12) * 4 / 16)
    phase = replace(phase, hard_negatives=2)
    assert affordable_documents(phase, 10, [pair], encoder) == pytest.approx(0.1 * 10 * 8 * (5 + 3 * 12) * 4 / 16)
