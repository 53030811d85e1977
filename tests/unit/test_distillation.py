"""The student equals the whole model, and the teacher's scores depend on the corpus, not on the pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.distillation.corpora import Corpus, Hidden, draw_lesson, taken, teach
from benchmarks.distillation.directions import target
from benchmarks.distillation.folders import draw
from benchmarks.distillation.student import TOKEN_LENGTH, Student
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.model.evidence import Evidence
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import TextCounts, WordReader
from cde_train.data.pairs import TrainingPair
from cde_train.distillation import lessons
from cde_train.distillation.config import DistillationConfig
from cde_train.distillation.lessons import choose, learn, splits
from cde_train.distillation.student import Context, Law, Seen, divergence, see, train
from cde_train.distillation.teacher import Texts
from cde_train.distillation.teacher import target as distribution
from cde_train.distillation.teacher import teach as teach_all
from tests.tiny import documents, plain_encoder

LETTERS = ["alpha beta gamma", "alpha delta", "alpha epsilon", "beta zeta"]


def test_upper_layers_from_stored_outputs_give_the_whole_model(tmp_path):
    torch.manual_seed(0)
    student = Student(plain_encoder(tmp_path / "plain"), frozen=2, gate=1.0)
    tokenizer = student.encoder.text_tokenizer(64)
    ids, mask = map(torch.from_numpy, tokenizer.pad(tokenizer.tokenize(documents(5), "document").ids))
    backbone = student.encoder.open_model().first_stage.backbone
    with torch.no_grad():
        hidden = backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[2]
        context = torch.nn.functional.normalize(torch.randn(7, 32), dim=1).numpy()
        for given in (context, None):
            evidence = Evidence(0) if given is None else Evidence(7, torch.from_numpy(given))
            whole, state = student.second(ids, mask, student.second.prepare(evidence)), student.read(given)
            torch.testing.assert_close(student((hidden.numpy(), mask.numpy()), state), whole, atol=1e-5, rtol=1e-5)
        other = student((hidden.numpy(), mask.numpy()), student.read(context[::-1].copy() * -1))
    assert (other - student((hidden.numpy(), mask.numpy()), student.read(context))).abs().max() > 1e-3
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert not any(".layer.0." in name or ".layer.1." in name or "first_stage" in name for name in trained)
    assert any(
        "second_stage.backbone.encoder.layer.2." in name or "second.backbone.encoder.layer.2." in name
        for name in trained
    )


def test_a_context_may_enter_above_the_frozen_layers(tmp_path):
    torch.manual_seed(0)
    student = Student(plain_encoder(tmp_path / "plain"), frozen=2, gate=0.0, enters_above=True)
    context = torch.nn.functional.normalize(torch.randn(5, 32), dim=1).numpy()
    with torch.no_grad():
        key, value, bias = student.read(context)
        entered = TOKEN_LENGTH * student.second.prefix(Evidence(5, torch.from_numpy(context)))
        attention = student.upper[0].attention.self
        torch.testing.assert_close(key[0].transpose(0, 1).reshape(5, 32), attention.key(entered))
        torch.testing.assert_close(value[0].transpose(0, 1).reshape(5, 32), attention.value(entered))
    torch.testing.assert_close(bias, torch.full((1, 4), -np.log(5), dtype=torch.float32))


def words(texts: list[str], side: str) -> TextCounts:
    return WordReader("english").read(texts, side)


def test_a_word_is_worth_what_it_is_in_the_corpus():
    flat = np.eye(4, dtype=np.float32)[:, :4]
    query, asked = np.full((1, 4), 0.5, np.float32), words(["alpha beta"], "query")
    # "alpha" stands nearly everywhere in the first corpus, "beta" in the second: the rare one decides.
    first = teach(flat, words(["alpha x", "beta x", "alpha y", "alpha z"], "document"), query, asked)
    second = teach(flat, words(["alpha x", "beta x", "beta y", "beta z"], "document"), query, asked)
    assert first[0, 1] > first[0, 0] + 0.01
    assert second[0, 0] > second[0, 1] + 0.01


def test_an_isolated_teacher_keeps_what_the_corpus_changes():
    flat = np.eye(2, dtype=np.float32)
    query, asked = np.full((1, 2), 0.5, np.float32), words(["alpha beta"], "query")
    said = words(["alpha x", "beta x"], "document")
    whole = teach(flat, said, query, asked)
    isolated = teach(flat, said, query, asked, isolated=True)
    assert (whole - isolated).min() > 0.1  # both documents hold half of the query's words, in any corpus
    alone = teach(flat, words(["x", "y"], "document"), query, asked, isolated=True)
    np.testing.assert_allclose(alone, teach(flat, words(["x", "y"], "document"), query, asked), atol=1e-6)


def corpus(name: str, count: int) -> Corpus:
    rng = np.random.default_rng(count)
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    starts = np.arange(0, 3 * count + 1, 3)
    hidden = Hidden(starts, np.repeat(np.arange(count, dtype=np.float16), 3)[:, None] * np.ones(4, np.float16))
    texts = [f"{LETTERS[i % 4]} {name} {i}" for i in range(count)]
    both = words(texts, "document"), words(texts, "query")
    return Corpus(name, (vectors, vectors), both, (hidden, hidden), [{i: 1} for i in range(count)])


def test_a_lesson_pairs_token_vectors_with_the_teachers_scores():
    lesson = draw_lesson([corpus("one", 12)], np.random.default_rng(0), queries=3, candidates=6, context=(4, 4))
    assert lesson.teacher.shape == (3, 6)
    assert lesson.context.shape == (4, 8)
    # A document's token vectors say its number here, and a query is its own document word for word.
    numbers = lesson.documents[0][:, 0, 0].astype(int).tolist()
    asked = lesson.queries[0][:, 0, 0].astype(int).tolist()
    assert len(set(numbers)) == 6
    for row, number in enumerate(asked):
        if number in numbers:
            assert lesson.teacher[row].argmax() == numbers.index(number)
    assert any(number in numbers for number in asked)


def test_taken_texts_keep_their_token_vectors():
    hidden = Hidden(np.array([0, 2, 3, 6]), np.arange(6, dtype=np.float16)[:, None])
    padded, mask = taken(hidden, np.array([2, 0])).padded(np.array([1, 0]))
    assert padded[:, :, 0].tolist() == [[0, 1, 0], [3, 4, 5]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_the_teachers_scores_are_sharper_where_cosines_are_closer_together():
    known = corpus("one", 12)
    documents, queries = (Texts(known.vectors[0], side) for side in known.words)
    scores, spread = teach_all(documents, queries, HeadSettings())
    cosines = (known.vectors[0] @ known.vectors[0].T)[np.triu_indices(12, 1)]
    assert spread == pytest.approx((12 * cosines.std() + 16 * 0.12) / 28, rel=1e-5)  # few documents: nearer to typical
    chances = np.exp(scores / (0.5 * spread))
    chances /= chances.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(distribution(documents, queries, HeadSettings(), 0.5), chances, atol=1e-6)


def test_what_is_learned_means_the_same_in_a_short_vector():
    """A student's scores are those of the product's one vector with its numbers, but for one scale a query."""
    seen_corpus, rows = corpus("one", 20), np.arange(4, 12)
    settings = HeadSettings(
        directions=8, levelling=0.2, topics=127, topic_weight=0.5, sketch=0, skip_question_words=False
    )
    given = Context.of(seen_corpus.documents, rows)
    scores = Law(settings)(see(seen_corpus.documents, seen_corpus.queries, given, settings)).detach().numpy()
    context = given.texts
    known = Knowledge(settings, context.vectors, CorpusWords.of("english", context.words))
    numbers = np.full(20, -1)
    numbers[rows] = np.arange(8)
    made = known.join_documents(known.move(seen_corpus.vectors[0], numbers), seen_corpus.words[0].words)
    ratio = known.join_queries(seen_corpus.vectors[1], seen_corpus.words[1].words) @ made.T / scores
    np.testing.assert_allclose(ratio, np.repeat(np.median(ratio, axis=1)[:, None], 20, axis=1), rtol=1e-2)


def test_a_power_is_learned_from_scores_that_have_it():
    torch.manual_seed(0)
    variances = torch.tensor([1.0, 0.1, 0.01, 0.001])
    seen = Seen(torch.randn(30, 4), torch.randn(40, 4), variances, torch.zeros(30, 1), torch.zeros(40, 1))
    scores = (seen.queries * (1 / variances) ** 0.25) @ seen.documents.T
    head = HeadSettings(directions=4, topics=1, sketch=0)
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


class Stored:
    """A store of one corpus; query i asks for document i."""

    def open(self, name: str) -> Corpus:
        return corpus(name, 12)

    def documents(self, name: str) -> list[str]:
        return [f"{name} {i}" for i in range(12)]

    def queries(self, _name: str) -> list[str]:
        return [f"query {i}" for i in range(12)]


def test_a_folder_holds_answers_of_its_queries_and_other_documents():
    folder = draw(Stored(), "one", 8)
    assert 6 <= len(folder.data.documents) == len(folder.documents) <= 8
    assert len(folder.data.queries) == len(folder.queries) >= 6
    texts = dict(zip(folder.data.document_ids, folder.data.documents, strict=True))
    for key, query in zip(folder.data.query_ids, folder.data.queries, strict=True):
        (answer,) = folder.data.relevant[key]
        assert texts[answer].split()[-1] == query.split()[-1]
    numbers = [int(text.split()[-1]) for text in folder.data.documents]
    np.testing.assert_array_equal(folder.documents, corpus("one", 12).vectors[0][numbers])
