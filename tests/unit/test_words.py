"""Words, sentences, pseudo-queries, near copies and BM25 in scripts with spaces between words and without."""

import random

import pytest

from cde_retriever.search.bm25 import WordSearch
from cde_retriever.words.pieces import comparable, count_words, pieces, sentences, with_spaces
from cde_train.data.holdout import HoldOutConfig, hold_out
from cde_train.data.pairs import TrainingPair
from cde_train.data.pseudo_queries import GENERATORS, make_pairs
from cde_train.evaluation.baselines import rank_bm25

CHINESE = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 400))
JAPANESE = "".join(chr(code) for code in [*range(0x3041, 0x3097), *range(0x30A1, 0x30F7), *range(0x4E00, 0x4F00)])
THAI = "".join(chr(code) for code in range(0x0E01, 0x0E2F))


def text_of(letters: str, seed: int, sentence_count: int = 6) -> str:
    """Return a heading and sentences without a space, as they are written in Chinese and Japanese."""
    rng = random.Random(seed)
    body = "".join("".join(rng.choices(letters, k=rng.randint(12, 30))) + "\u3002" for _ in range(sentence_count))
    return "".join(rng.choices(letters, k=6)) + "\n\n" + body


TOKYO, CITY, STOP, MARK = "\u6771\u4eac", "\u90fd", "\u3002", "\uff01"


def test_words_by_hand() -> None:
    text = f"ab {TOKYO}{CITY}"
    assert comparable(f"Tokyo {TOKYO}2024!") == ["tokyo", *TOKYO, "2024"]
    assert [text[a:b] for a, b in pieces(text)] == ["ab", TOKYO, CITY]
    assert count_words(f"two words, {TOKYO}{CITY}") == 4
    assert with_spaces(f"in {TOKYO}{CITY}.").split() == ["in", TOKYO, TOKYO[1] + CITY, "."]
    assert with_spaces("no change here, at all") == "no change here, at all"


def test_sentences_end_at_full_stops_of_any_script() -> None:
    assert sentences("One. Two? 3.5 is three.") == ["One.", "Two?", "3.5 is three."]
    assert sentences(f"{TOKYO}{STOP}{CITY}{MARK}\n{TOKYO}") == [TOKYO + STOP, CITY + MARK, TOKYO]


@pytest.mark.parametrize("letters", [CHINESE, JAPANESE, THAI], ids=["chinese", "japanese", "thai"])
def test_documents_without_spaces_give_queries_of_every_kind(letters: str) -> None:
    texts = [text_of(letters, seed) for seed in range(50)]
    made = make_pairs(texts, "x")
    assert len(made) > 80
    assert set(made.values()) == set(GENERATORS)
    for pair in made:
        assert pair.source in texts
        assert 3 <= len(pair.query) < len(pair.source) / 2, "a query is a part, not the whole text"


def test_near_copies_without_spaces_are_not_trained_on() -> None:
    texts = [text_of(CHINESE, seed) for seed in range(100)]
    pairs = [TrainingPair(f"q{i}", text, "x") for i, text in enumerate(texts)]
    _, held = hold_out(pairs, [], HoldOutConfig(share=0.3))
    taken = {text for text in held.documents if text in texts} - {
        pair.document for pair in hold_out(pairs, [], HoldOutConfig(share=0.3))[0]
    }
    copies = [TrainingPair(f"copy {text[:9]}", text[7:] + CHINESE[:20], "x") for text in sorted(taken)]
    train, _ = hold_out([*pairs, *copies], [], HoldOutConfig(share=0.3))
    assert len(copies) > 10
    assert not [pair for pair in train if any(text[7:40] in pair.document for text in taken)]


def test_bm25_finds_a_text_without_spaces() -> None:
    texts = [text_of(CHINESE, seed) for seed in range(30)]
    ranking = rank_bm25(WordSearch(texts), [text[40:60] for text in texts])
    assert [int(row[0]) for row in ranking] == list(range(30))
