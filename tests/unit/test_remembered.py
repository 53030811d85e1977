"""Rows of words are found once, the same to the last bit, and never more are kept than said."""

import numpy as np
import pytest

from cde_retriever.words import remembered
from cde_retriever.words.remembered import Remembered


@pytest.mark.parametrize("width", [(), (3,)])
def test_rows_are_found_once_and_come_back_as_they_were(width):
    asked = []

    def find(words):
        asked.append(words.tolist())
        return np.sqrt(np.multiply.outer(words + 0.1, np.arange(1, 4) if width else np.float64(1)))

    known = Remembered(find)
    first = np.array([7, 2**32 - 1, 0])
    for words in (first, first[::-1], np.array([0, 5]), np.array([5, 5, 7]), np.zeros(0, np.int64)):
        expected = np.sqrt(np.multiply.outer(words + 0.1, np.arange(1, 4) if width else np.float64(1)))
        np.testing.assert_array_equal(known(words), expected, strict=True)
    assert asked == [[], [7, 2**32 - 1, 0], [0, 5], []]  # nothing is found of no words, for the shape


def test_no_more_words_are_kept_than_said(monkeypatch):
    asked = []
    known = Remembered(lambda words: asked.append(words.tolist()) or words * 2.0)
    monkeypatch.setattr(remembered, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(remembered, "MOST_WORDS", 5)
    for words in ([1, 2, 3], [4, 5], [1, 5], [6], [1], [7, 8, 9, 10], [7], [6, 1]):
        assert known(np.array(words)).tolist() == [2.0 * word for word in words]
    assert asked[1:] == [[1, 2, 3], [4, 5], [6], [1], [7, 8, 9, 10], [7]]
