"""What is judged on is not trained on."""

import pytest

from cde_train.data.holdout import HoldOutConfig, drawn_pairs, hold_out, leave_out_copies
from cde_train.data.pairs import TrainingPair
from cde_train.errors import TrainingDataError

LONG = " ".join(f"w{{0}}n{i}" for i in range(30))
PAIRS = [TrainingPair(f"q{i}", LONG.format(i // 2), "x") for i in range(200)]
CONFIG = HoldOutConfig(share=0.2)


def test_documents_stay_together_and_all_are_in_the_corpus() -> None:
    train, held = hold_out(PAIRS, [], CONFIG)
    assert len(train) + len(held.queries) == 200
    assert 20 < len(held.queries) < 60
    assert set(held.documents) == {pair.document for pair in PAIRS}
    answers = {pair.query: pair.document for pair in PAIRS}
    texts = dict(zip(held.document_ids, held.documents, strict=True))
    for key, query in zip(held.query_ids, held.queries, strict=True):
        assert [texts[d] for d in held.relevant[key]] == [answers[query]]


def test_more_data_and_another_order_keep_the_split() -> None:
    _, held = hold_out(PAIRS[:150], [], CONFIG)
    _, more = hold_out(PAIRS[::-1], [], CONFIG)
    assert set(held.queries) == set(more.queries) & {pair.query for pair in PAIRS[:150]}


def test_copies_and_queries_of_held_out_pairs_are_not_trained_on() -> None:
    _, held = hold_out(PAIRS, [], CONFIG)
    first = next(pair for pair in PAIRS if pair.query in held.queries)
    near = first.document + " and a few more"
    other = PAIRS[0].document if PAIRS[0].query not in held.queries else "free"
    leaks = [
        TrainingPair("new", near, "x"),
        TrainingPair(first.query.upper(), other, "x"),
        TrainingPair("new", other, "x", (first.document,)),
    ]
    drawn = drawn_pairs(PAIRS, CONFIG)
    assert [leave_out_copies([leak], drawn) for leak in leaks] == [[], [], []]
    train, again = hold_out(PAIRS, [near, "a distractor"], CONFIG)
    assert "a distractor" in again.documents
    assert near not in again.documents
    assert leave_out_copies(train, drawn) == train
    assert {*train, *drawn} == set(PAIRS)
    assert hold_out([*PAIRS, *leaks], [], CONFIG)[0] == train


def test_too_few_pairs_is_an_error() -> None:
    with pytest.raises(TrainingDataError, match=r"[01] of 1 pairs would be held out.* 1 different documents"):
        hold_out(PAIRS[:1], [], CONFIG)


def test_a_held_out_passage_that_comes_back_whole_is_not_trained_on() -> None:
    """Three of its five sentences became queries, so that few of its 13-grams are left in the retrieval set."""
    pairs = []
    for i in range(40):
        sentences = [" ".join(f"p{i}s{j}w{k}" for k in range(8)) + "." for j in range(5)]
        for asked in sentences[::2]:
            rest = " ".join(one for one in sentences if one != asked)
            pairs.append(TrainingPair(asked, rest, "x", source=" ".join(sentences)))
    train, _ = hold_out(pairs, [], CONFIG)
    back = [TrainingPair(f"asked {i}", text, "y") for i, text in enumerate(dict.fromkeys(p.source for p in pairs))]
    kept = leave_out_copies(back, drawn_pairs(pairs, CONFIG))
    assert [pair.document for pair in kept] == list(dict.fromkeys(pair.source for pair in train))
    assert 20 < len(kept) < 40


def test_no_made_query_stands_in_a_held_out_document() -> None:
    words = [" ".join(f"p{i}s{j}w{k}" for k in range(9)) + "." for i in range(40) for j in range(6)]
    pairs, sources = [], [words[i : i + 6] for i in range(0, len(words), 6)]
    for sentences in sources:
        for asked in (sentences[0], sentences[3]):
            rest = " ".join(one for one in sentences if one != asked)
            pairs.append(TrainingPair(asked, rest, "x", source=" ".join(sentences)))
    _, held = hold_out(pairs, [], CONFIG)
    texts = dict(zip(held.document_ids, held.documents, strict=True))
    for key, query in zip(held.query_ids, held.queries, strict=True):
        sentences = next(found for found in sources if query in found)
        left = " ".join(sentences[i] for i in (1, 2, 4, 5))
        assert [texts[name] for name in held.relevant[key]] == [left]
    assert not any(query in text for query in held.queries for text in held.documents)


def test_a_held_out_document_is_left_with_words() -> None:
    pairs = []
    for i in range(40):
        first, second = (" ".join(f"p{i}{part}{k}" for k in range(9)) for part in "ab")
        source = f"{first} {second}"
        pairs += [TrainingPair(first, second, "x", source=source), TrainingPair(second, first, "x", source=source)]
    _, held = hold_out(pairs, [], CONFIG)
    assert all(len(text.split()) == 9 for text in held.documents)
