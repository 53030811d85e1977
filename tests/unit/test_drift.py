"""Whether documents that join are like a context's own."""

import json
import pickle
import random
import tracemalloc

import numpy as np
import pytest

from benchmarks import drift as benchmark
from cde_retriever.context.drift import (
    FEWEST,
    LOSS_OF_FOREIGN,
    LOSS_WHERE_FITTED,
    LOSS_WITH_WORDS,
    Added,
    Drift,
    Joined,
    KindDrifts,
    Reference,
)
from cde_retriever.errors import ConfigError, ContextError
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import reader
from tests.tiny import HEADED, documents, tiny_encoder
from tests.unit.test_quality import write_sets


def reference(texts, vectors):
    words = CorpusWords.of("english", reader("english").read(texts, "document"))
    return Reference([], words, np.array(vectors, np.float32))


def test_places_are_among_the_context_documents_each_beside_the_others():
    """By hand: shares of words known to others are 1/2, 2/3 and 1; cosines with the nearest 0, 0.8 and 0.8."""
    found = reference(["apple pear", "apple plum grape", "plum apple"], [[1, 0, 0], [0, 1, 0], [0, 0.8, 0.6]])
    assert found.size == 3

    def places(text, *vector):
        added = found.judge([text], np.array([vector], np.float32))
        return added.words, added.vectors

    assert places("apple plum", 1, 0, 0) == pytest.approx((2.5 / 3, 1.0)), "known words alone, the same vector"
    assert places("stone brick", 0, 0, -1) == pytest.approx((0.0, 0.5 / 3)), "no word, and as far as the first is"
    assert places("apple stone", 0, 0, 1) == pytest.approx((0.5 / 3, 1 / 3)), "half of them, as in the first"


def test_context_documents_and_empty_ones_are_counted_but_not_judged():
    encoder = tiny_encoder(**HEADED)
    context = encoder.fit_context(documents(40), context_size=16)
    added = context.reference().judge([*context.texts, "", "the", "baron"])
    assert (added.documents, added.judged, added.compared) == (19, 1, 0)


def test_copies_that_come_together_count_once():
    """A context holds a text once, however often its corpus has it; so one new text is one witness of drift."""
    found = reference(["apple pear", "apple plum grape", "plum apple"], [[1, 0, 0], [0, 1, 0], [0, 0.8, 0.6]])
    texts, vectors = ["apple plum", "apple stone"], np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    once, often = found.judge(texts, vectors), found.judge(texts * 25, np.tile(vectors, (25, 1)))
    assert (often.documents, once.documents) == (50, 2)
    assert (often.judged, often.words, often.compared, often.vectors) == (2, once.words, 2, once.vectors)
    assert not Drift.of(found.judge(["stone"] * 50), 300, 50).detected


def test_many_documents_at_once_take_no_memory_for_their_pairs_with_the_context():
    vectors = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    found = reference([f"apple {n}x" for n in range(2000)], vectors[:2000])
    texts = [f"plum {n}y" for n in range(10_000)]
    tracemalloc.start()
    try:
        added = found.judge(texts, vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2000 * 10_000 * 4 / 2
    halves = [found.judge(texts[half], vectors[half]) for half in (slice(5000), slice(5000, None))]
    assert (added.compared, added.vectors) == (10_000, pytest.approx(sum(half.vectors for half in halves)))


def test_the_evidence_is_the_mean_place_in_standard_deviations():
    """Of 100 documents and J = 50 the mean place has the variance 51 / 60,000 + 1.4 / 600."""
    deviation = (191 / 60_000) ** 0.5
    drift = Drift.of(Added(100, 100, 50 - 300 * deviation, 80, 40.0), documents_seen=300, size=50)
    assert drift.evidence == pytest.approx(3.0)
    assert drift.detected
    assert drift.foreign == pytest.approx(6 * deviation)
    assert drift.expected_loss == pytest.approx(LOSS_OF_FOREIGN * drift.foreign * 100 / 400)
    assert (drift.documents_seen, drift.added) == (300, 100)
    alike = Drift.of(Added(100, 100, 50 - 200 * deviation, 100, 50.0), 300, 50)
    assert (alike.detected, alike.foreign, alike.expected_loss) == (False, 0.0, 0.0)
    by_vectors = Drift.of(Added(100, 100, 50.0, 100, 20.0), 300, 50)
    assert by_vectors.detected
    assert by_vectors.foreign == pytest.approx(0.6)


def test_one_vector_whose_queries_are_fitted_loses_more_as_far_as_a_new_context_can_hold_the_documents():
    """By hand: half of what joined is foreign; two kinds lose by their own documents."""
    added = Added(100, 100, 25.0)
    assert Drift.of(added, 300, 512).expected_loss == pytest.approx(LOSS_OF_FOREIGN * 0.5 / 4)
    assert Drift.of(added, 300, 512, fitted=512).expected_loss == pytest.approx(LOSS_WHERE_FITTED * 0.5 / 4)
    assert Drift.of(added, 300, 512, fitted=100).expected_loss == pytest.approx(LOSS_WHERE_FITTED * 0.5 / 16)
    with_words = Drift.of(added, 300, 512, fitted=100, words=True)
    assert with_words.expected_loss == pytest.approx(LOSS_WITH_WORDS * 0.5 / 16)
    assert LOSS_OF_FOREIGN < LOSS_WITH_WORDS < LOSS_WHERE_FITTED
    both = Drift.of_all([Joined(added, 300, 512, fitted) for fitted in (0, 400)])
    assert both.expected_loss == pytest.approx((LOSS_OF_FOREIGN + LOSS_WHERE_FITTED) * 0.5 / 8)


def test_few_documents_and_none_tell_nothing():
    few = Added(FEWEST - 1, FEWEST - 1, 0.0, 0, 0.0)
    assert Drift.of(few, 10, 50).evidence > 5
    assert not Drift.of(few, 10, 50).detected
    assert Drift.of(few + Added(1, 1), 10, 50).detected
    assert Drift.of(Added(), 10, 50) == Drift(10, 0, 0.0, 0.0, 0.0, False, needed=None)


@pytest.mark.parametrize(("size", "fewest"), [(512, 67), (256, 81), (128, 145), (100, 260)])
def test_enough_is_what_shows_thirty_percent_of_foreign_documents(size, fewest):
    """30 % last places lower the mean by 0.15: 2.24 deviations to be detected, 1.645 more to be so in 95 %."""
    assert Drift.of(Added(fewest, fewest, fewest / 2), 10, size).enough
    assert not Drift.of(Added(fewest - 1, fewest - 1, fewest / 2), 10, size).enough
    assert not Drift.of(Added(10**6, 10**6, 5e5), 10, 78).enough, "a context of 78 never tells so much"


def test_too_few_to_tell_is_said():
    few, many = (str(Drift.of(Added(n, n, n / 2), 300, 512)) for n in (66, 67))
    counted = "the context was drawn from 300 documents, 66 joined since"
    assert few == f"{counted}: too few to tell whether they are unlike these, which takes 67"
    assert many.endswith("and nothing shows that they are unlike these")
    assert "100 % of them unlike these" in str(Drift.of(Added(20, 20), 300, 512)), "what is seen is said"
    assert f"{counted}, 40 of which can be compared: too few" in str(Drift.of(Added(66, 40, 20.0), 300, 512))
    assert str(Drift.of(Added(), 300, 78)) == "the context was drawn from 300 documents, none joined since"
    for size in (0, 78):
        never = Drift.of(Added(62, 62 if size else 0, 31.0 if size else 0.0), 300, size)
        assert never.needed is None
        assert "nothing shows that they are unlike these, but the context has too few documents, or its model" in str(
            never
        )


def test_several_contexts_are_one_test_together():
    """Two kinds, none of which tells by itself: their lacks add up, and their variances by the squares of shares."""
    kinds = {"a": Joined(Added(40, 40, 16.0), 500, 512), "b": Joined(Added(60, 60, 25.0), 300, 128)}
    drifts = KindDrifts(kinds)
    assert drifts == {name: Drift.of(*one[:3]) for name, one in kinds.items()}
    assert [drift.detected for drift in drifts.values()] == [False, False]
    variance = 0.4**2 * (56 + 513) / (12 * 40 * 512) + 0.6**2 * (84 + 129) / (12 * 60 * 128)
    whole = drifts.whole
    assert whole.evidence == pytest.approx(0.09 / variance**0.5)
    assert (whole.detected, whole.documents_seen, whole.added) == (True, 800, 100)
    assert whole.foreign == pytest.approx(0.18)
    assert whole.expected_loss == pytest.approx(LOSS_OF_FOREIGN * 0.18 * 100 / 900)
    assert pickle.loads(pickle.dumps(drifts)).whole == whole
    assert str(drifts).splitlines() == [f"all: {whole}", f"a: {drifts['a']}", f"b: {drifts['b']}"]


def test_what_several_contexts_need_together_is_what_is_enough():
    """In the proportions of what joined; of one context it is that context's own number, of ten equal ones less."""
    for sizes, share in (((512, 128), 0.4), ((128, 60), 0.5)):
        joined = lambda n, sizes=sizes, share=share: [  # noqa: E731
            Joined(Added(m, m, m / 2), 100, size) for m, size in zip((n * share, n * (1 - share)), sizes, strict=True)
        ]
        needed = Drift.of_all(joined(1000)).needed
        found = [Drift.of_all(joined(n)).enough for n in (needed - 1, needed)]
        assert found == [False, True]
    assert Drift.of_all([Joined(Added(), 100, 512)] * 10).needed < Drift.of(Added(), 100, 512).needed == 67


def topic(seed, count, first):
    """Return texts of one subject: each of 12 of its 90 words."""
    rng = random.Random(seed)
    words = [f"{first}{a}{b}" for a in "aeiou" for b in "bcdfghklmnprstvwxz"]
    return [f"{first}{i} " + " ".join(rng.sample(words, 12)) for i in range(count)]


def test_thirty_percent_of_another_subject_are_noticed_and_more_of_the_same_are_not():
    encoder = tiny_encoder(**HEADED)
    own = topic(1, 400, "ka")
    context = encoder.fit_context(own[::2], context_size=128)
    found = encoder.drift_reference()

    def drift(texts):
        return Drift.of(found.judge(texts, encoder.encode_documents(texts)), context.documents_seen, context.size)

    assert not drift(own[1::2]).detected
    mixed = drift(own[1:280:2] + topic(2, 60, "mo"))
    assert mixed.detected
    assert mixed.foreign == pytest.approx(0.3, abs=0.12)
    assert context.drift(own[1:280:2] + topic(2, 60, "mo")).detected, "by words alone"
    assert not context.drift(own[1::2]).detected


@pytest.mark.parametrize(
    ("form", "loss"), [(None, LOSS_OF_FOREIGN), ("both", LOSS_OF_FOREIGN), ("one", LOSS_WITH_WORDS / 4)]
)
def test_a_context_tells_the_loss_of_the_form_that_it_is_told(form, loss):
    """A new context of 128 holds a quarter of 512 documents."""
    context = tiny_encoder(**HEADED).fit_context(topic(1, 400, "ka"), context_size=128)
    foreign = topic(2, 112, "mo")
    found = context.drift(foreign) if form is None else context.drift(foreign, form=form)
    assert found.expected_loss == pytest.approx(loss * found.foreign * 112 / 512)
    assert found.foreign > 0.9
    as_they_are = context.drift(foreign, form="queries")
    assert as_they_are.expected_loss == pytest.approx(LOSS_WHERE_FITTED / 4 * found.foreign * 112 / 512)
    with pytest.raises(ConfigError, match="form is 'two', expected one of 'both', 'one', 'queries'"):
        context.drift(foreign, form="two")


@pytest.mark.parametrize("parts", ["dense", "one"])
def test_a_document_of_the_context_has_the_place_that_it_has_among_the_others(parts):
    """Of a context of 16, one left out and added again: its dense part is moved as it would be in the index."""
    encoder = tiny_encoder(**HEADED)
    encoder.fit_context(documents(60, words=30), context_size=16)
    texts = documents(30, seed=3, words=30)
    found = encoder.drift_reference()
    dense = encoder.encode_documents(texts, parts="dense")
    nearest = (dense @ encoder.context.vectors.T).max(axis=1)
    own = encoder.encode_documents(list(encoder.context.texts), parts="dense") @ encoder.context.vectors.T
    np.fill_diagonal(own, -1)
    expected = [np.mean([(a < b) + (a == b) / 2 for a in own.max(axis=1)]) for b in nearest]
    assert found.judge(texts, encoder.encode_documents(texts, parts=parts)).vectors == pytest.approx(sum(expected))


def test_there_must_be_something_to_compare_with():
    encoder = tiny_encoder(**HEADED)
    with pytest.raises(ContextError, match="is of one document, so drift from it cannot be told"):
        encoder.fork().fit_context(["baron kolak"] * 9).drift(["a"])
    with pytest.raises(ContextError, match="is of no corpus, so drift from it cannot be told"):
        encoder.null_context().drift(["a"])
    with pytest.raises(ContextError, match="keeps no words, as its model has no corpus head"):
        tiny_encoder().fit_context(documents(9)).drift(["a"])


@pytest.mark.parametrize(("texts", "message"), [("abc", "received one str"), (["a", 1], "document 1 is int")])
def test_only_texts_drift(texts, message):
    context = tiny_encoder(**HEADED).fit_context(documents(9))
    with pytest.raises(TypeError, match=message):
        context.drift(texts)


def test_the_benchmark_measures_losses_and_detections(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "JOINING", (10, 1000))
    folder = tiny_encoder(**HEADED).save_pretrained(tmp_path / "model")
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "drift.json"
    shared = ["--cache", str(tmp_path / "cache"), "--dtype", "float32", "--output", str(output)]
    benchmark.main([str(folder), str(sets), "--sizes", "8", "--draws", "2", "--losses", "a", "b", *shared])
    found = json.loads(output.read_text())
    pairs = {(own, joined) for own in "abc" for joined in "abc"}
    assert {(row["set"], row["joined"]) for row in found["losses"]} == {("a", "b"), ("b", "a")}
    assert [row["form"] for row in found["losses"]] == [form for form in benchmark.FORMS for _ in range(2)]
    assert all(abs(row["loss"]) < 1 and 0 <= row["share"] <= 1 for row in found["losses"])
    assert {(row["set"], row["joined"]) for row in found["detections"]} == pairs
    assert {row["joining"] for row in found["detections"]} == {10}, "of as many documents as there are"
    page = output.with_suffix(".md").read_text()
    assert "| a | b |" in page
    assert "| 8 | 10 (too few to tell) | 2 | 3 |" in page
    benchmark.main([str(folder), str(sets), "--sizes", "99", "--losses", *shared])
    assert json.loads(output.read_text()) == found, "what was measured is kept"


def test_the_slope_goes_through_the_origin():
    assert benchmark.slope(
        [{"share": 0.5, "held": 1, "loss": 0.02}, {"share": 2, "held": 0.5, "loss": 0.01}]
    ) == pytest.approx(0.02 / 1.25)
