"""The teacher's scores depend on the corpus, not on the pair; what a student learns holds in a short vector."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.distillation import directions
from benchmarks.distillation.corpora import Corpus, mixture, named
from benchmarks.distillation.directions import target
from benchmarks.distillation.folders import draw
from benchmarks.head_ranking import PlainTexts
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import TextCounts, WordReader
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import RetrievalSet, write_retrieval_set
from cde_train.distillation import lessons
from cde_train.distillation.config import DistillationConfig
from cde_train.distillation.lessons import choose, learn, splits
from cde_train.distillation.student import Context, Law, Seen, divergence, see, train
from cde_train.distillation.teacher import Texts, teach
from cde_train.distillation.teacher import target as distribution
from tests.tiny import headed_encoder

LETTERS = ["alpha beta gamma", "alpha delta", "alpha epsilon", "beta zeta"]


def words(texts: list[str], side: str) -> TextCounts:
    return WordReader("english").read(texts, side)


def test_a_word_is_worth_what_it_is_in_the_corpus():
    flat = np.eye(4, dtype=np.float32)[:, :4]
    asked = Texts(np.full((1, 4), 0.5, np.float32), words(["alpha beta"], "query"))

    def scores(*said: str) -> np.ndarray:
        return teach(Texts(flat, words(list(said), "document")), asked, HeadSettings())[0]

    # "alpha" stands nearly everywhere in the first corpus, "beta" in the second: the rare one decides.
    first, second = scores("alpha x", "beta x", "alpha y", "alpha z"), scores("alpha x", "beta x", "beta y", "beta z")
    assert first[0, 1] > first[0, 0] + 0.01
    assert second[0, 0] > second[0, 1] + 0.01


def judged(name: str, count: int) -> RetrievalSet:
    """Return a set whose query i asks for document i."""
    texts = tuple(f"{LETTERS[i % 4]} {name} {i}" for i in range(count))
    keys = tuple(map(str, range(count)))
    return RetrievalSet(name, keys, texts, keys, texts, {key: {key: 1} for key in keys})


def corpus(name: str, count: int) -> Corpus:
    vectors = np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    data = judged(name, count)
    return Corpus.of(data, PlainTexts(data.documents, data.queries, vectors, vectors))


def test_a_mixture_holds_vectors_and_words_of_the_same_texts():
    corpora = [corpus("one", 12), corpus("two", 10), corpus("three", 8)]
    mixed = mixture(corpora, np.random.default_rng(3), queries=9)
    assert len(mixed) > 12  # of more than one
    for made, sides in (
        (mixed.documents, [c.documents for c in corpora]),
        (mixed.queries, [c.queries for c in corpora]),
    ):
        known = {key: row for side in sides for key, row in by_vector(side).items()}
        assert len(by_vector(made)) == len(made.vectors)
        assert by_vector(made).items() <= known.items()


def by_vector(texts: Texts) -> dict[bytes, tuple[bytes, bytes]]:
    """Return the words of texts and how often each stands there, by the texts' vectors."""
    rows = map(texts.words.words.row, range(len(texts.vectors)))
    return {
        vector.tobytes(): (words.tobytes(), counts.tobytes())
        for vector, (words, counts) in zip(texts.vectors, rows, strict=True)
    }


def test_the_teachers_scores_are_sharper_where_cosines_are_closer_together():
    known = corpus("one", 12)
    documents, queries = known.documents, known.queries
    scores, spread = teach(documents, queries, HeadSettings())
    cosines = (documents.vectors @ documents.vectors.T)[np.triu_indices(12, 1)]
    assert spread == pytest.approx((12 * cosines.std() + 16 * 0.12) / 28, rel=1e-5)  # few documents: nearer to typical
    chances = np.exp(scores / (0.5 * spread))
    chances /= chances.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(distribution(documents, queries, HeadSettings(), 0.5), chances, atol=1e-6)


def test_what_is_learned_means_the_same_in_a_short_vector():
    """A student's scores are those of the product's one vector with its numbers, but for one scale a query."""
    seen_corpus, rows = corpus("one", 20), np.arange(4, 12)
    settings = HeadSettings(
        directions=8,
        levelling=0.2,
        topics=127,
        sketch=0,
        topic_weight=0.5,
        skip_question_words=False,
        query_noise=0.0,
        word_scale=0.0,
    )
    given = Context.of(seen_corpus.documents, rows)
    scores = Law(settings)(see(seen_corpus.documents, seen_corpus.queries, given, settings)).detach().numpy()
    context = given.texts
    known = Knowledge(settings, context.vectors, CorpusWords.of("english", context.words))
    numbers = np.full(20, -1)
    numbers[rows] = np.arange(8)
    made = known.within.documents(known.move(seen_corpus.documents.vectors, numbers), seen_corpus.documents.words.words)
    ratio = known.within.queries(seen_corpus.queries.vectors, seen_corpus.queries.words.words) @ made.T / scores
    np.testing.assert_allclose(ratio, np.repeat(np.median(ratio, axis=1)[:, None], 20, axis=1), rtol=1e-2)


def test_a_power_is_learned_from_scores_that_have_it():
    torch.manual_seed(0)
    variances = torch.tensor([1.0, 0.1, 0.01, 0.001])
    seen = Seen(torch.randn(30, 4), torch.randn(40, 4), variances, torch.zeros(30, 1), torch.zeros(40, 1))
    scores = (seen.queries * (1 / variances) ** 0.25) @ seen.documents.T
    head = HeadSettings(directions=4, topics=1, query_noise=0.0)
    law = train([(seen, (14 * scores).softmax(dim=1))], Law(head), DistillationConfig(steps=200))
    assert float(law.levelling.detach()) == pytest.approx(0.25, abs=0.03)
    assert law.put_into(head).levelling == pytest.approx(0.25, abs=0.03)


def test_the_target_is_the_teachers_choice():
    taught = target(corpus("one", 12))
    assert taught.shape == (12, 12)
    assert taught.argmax(dim=1).tolist() == list(range(12))
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(12))


def test_the_loss_and_its_gradient_are_those_computed_by_hand():
    """A query, twice, along two directions: the second has a quarter of the variance, and p = 0.5 twice the weight."""
    parts = [[0.6, 0.8]] * 2, [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.25], [[1.0]] * 2, [[0.2], [0.4]]
    seen = Seen(*map(torch.tensor, parts))
    law = Law(HeadSettings(levelling=0.5, topic_weight=0.5))
    law.scale.data.fill_(np.log(2))
    loss = divergence(law, seen, torch.tensor([[0.25, 0.75]] * 2))
    scores = np.array([0.6 + 0.1, 2 * 0.8 + 0.2])
    chances = np.exp(2 * scores) / np.exp(2 * scores).sum()
    taught = np.array([0.25, 0.75])
    assert float(loss.detach()) == pytest.approx((taught * np.log(taught / chances)).sum(), abs=1e-6)
    loss.backward()
    off = 2 * (chances - taught)
    assert float(law.levelling.grad) == pytest.approx(off @ [0, 2 * 0.8 * np.log(4)], abs=1e-5)
    assert float(law.worth.grad) == pytest.approx(off @ [0.1, 0.2], abs=1e-6)
    assert float(law.scale.grad) == pytest.approx(off @ scores, abs=1e-6)


def test_a_loss_that_is_not_finite_ends_training():
    seen = Seen(*(torch.full((1, 1), float("nan")),) * 2, torch.ones(1), *(torch.zeros(1, 1),) * 2)
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 0; lower distillation\.learning_rate"):
        train([(seen, torch.ones(1, 1))], Law(HeadSettings.short(6)), DistillationConfig(steps=1))


def answered(count: int) -> list[TrainingPair]:
    return [TrainingPair(f"query {i}", f"{LETTERS[i % 4]} answer {i}", "words") for i in range(count)]


def test_as_many_queries_are_drawn_as_said_and_the_documents_that_answer_them():
    chosen = choose(answered(9), DistillationConfig(queries=5, documents=6))
    assert len(set(chosen.queries)) == 5
    assert len(set(chosen.documents)) == 6
    assert [query.split()[-1] for query in chosen.queries] == [text.split()[-1] for text in chosen.documents][:5]
    twice = [*answered(9), *(replace(pair, document=f"more of {pair.document}") for pair in answered(9))]
    chosen = choose(twice, DistillationConfig(queries=3, documents=6))
    asked = {query.split()[-1] for query in chosen.queries}
    assert sorted(text.split()[-1] for text in chosen.documents) == sorted([*asked, *asked])


def test_the_student_nearest_to_the_teacher_is_taken_of_every_split(monkeypatch):
    head = HeadSettings.short(31)
    assert [(one.directions, one.topics) for one in splits(head, 64)] == [(20, 10), (25, 5), (15, 15), (10, 20)]
    assert [one.directions for one in splits(head, 12)] == [20, 12, 10]
    chosen, config = choose(answered(24), DistillationConfig()), DistillationConfig(steps=5, batch_size=7)
    vectors = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    taught = []
    monkeypatch.setattr(lessons, "train", lambda given, law, _: taught.append([len(t) for _, t in given]) or law)
    found = learn(chosen, (vectors, vectors), head, 16, config)
    assert taught == [[7, 7, 7, 3]] * 4
    numbers = np.random.default_rng(config.seed).permutation(24)[:16]
    read = [words(texts, side) for texts, side in ((chosen.documents, "document"), (chosen.queries, "query"))]
    documents, queries = (Texts(vectors, counts) for counts in read)
    goal = distribution(documents, queries, HeadSettings(), 0.5)
    context = Context.of(documents, numbers)
    far = {
        one.directions: float(divergence(Law(one), see(documents, queries, context, one), goal).detach())
        for one in splits(head, 64)
    }
    assert found.head.directions == min(far, key=far.get)
    assert (found.before, found.after) == pytest.approx((far[20], min(far.values())), abs=1e-6)


def test_a_folder_holds_answers_of_its_queries_and_other_documents():
    folder = draw(judged("one", 12), "law", 8)
    assert folder.name == "law"
    assert 6 <= len(folder.queries) <= len(folder.documents) <= 8
    texts = dict(zip(folder.document_ids, folder.documents, strict=True))
    for key, query in zip(folder.query_ids, folder.queries, strict=True):
        (answer,) = folder.relevant[key]
        assert texts[answer] == query
    assert not set(folder.document_ids) & set(folder.query_ids)  # a query's own id is left out of its ranking


def test_no_empty_document_and_no_query_without_its_answers_is_in_a_folder():
    data = judged("one", 12)
    data = replace(data, documents=("", *data.documents[1:]), relevant=data.relevant | {"3": {"0": 1, "3": 2}})
    folder = draw(data, "law", 16)  # room for the answers of all queries
    assert folder.documents == data.documents[1:]
    assert folder.query_ids == tuple(f"q{i}" for i in range(12) if i not in (0, 3))


def test_sets_are_found_by_name_and_a_missing_one_is_named():
    folders = [Path("a/one"), Path("b/two"), Path("b/three")]
    assert named(folders, ["three", "one"]) == [Path("b/three"), Path("a/one")]
    with pytest.raises(ValueError, match=r"no sets named \['four'\]; .* beside those of \['one', 'three', 'two'\]"):
        named(folders, ["one", "four"])


def test_students_are_taught_and_judged_by_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(directions, "UNSEEN", ("later", "other"))
    for name, count in (("one", 12), ("two", 14), ("other", 12), ("later", 16)):
        write_retrieval_set(judged(name, count), tmp_path / "sets" / name)
    page = tmp_path / "page.json"
    options = ["--lessons", "3", "--held-out", "1", "--steps", "2", "--seeds", "0", "--dtype", "float32"]
    places = ["--cache", str(tmp_path / "cache"), "--output", str(page)]
    model = headed_encoder().save_pretrained(tmp_path / "model")
    directions.main([str(model), str(tmp_path / "sets"), *options, *places])
    found = json.loads(page.read_text())
    assert [run["trained_on"] for run in found["runs"]] == ["nothing learned", *directions.CONTEXTS, directions.ALONE]
    nothing, own = found["runs"][:2]
    assert nothing["levelling"] == 0
    assert 0 < own["divergence"] != nothing["divergence"]
    assert "| own | 1 |" in page.with_suffix(".md").read_text()
    with pytest.raises(SystemExit):
        directions.main(["model", "sets", "--lessons", "3", "--held-out", "3"])
    assert "--held-out is 3, expected 1 to 2" in capsys.readouterr().err
