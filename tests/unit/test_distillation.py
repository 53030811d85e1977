"""The student equals the whole model, and the teacher's scores depend on the corpus, not on the pair."""

import numpy as np
import pytest
import torch

from benchmarks.distillation.corpora import Corpus, Hidden, draw_lesson, taken, teach
from benchmarks.distillation.directions import TOPICS, Context, Law, Seen, see, target, train
from benchmarks.distillation.student import TOKEN_LENGTH, Student
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.model.evidence import Evidence
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import TextCounts, WordReader
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


def test_what_is_learned_means_the_same_in_a_short_vector():
    """A student's scores are those of the product's one vector with its numbers, but for one scale a query."""
    seen_corpus, rows = corpus("one", 20), np.arange(4, 12)
    law = Law()
    with torch.no_grad():
        law.levelling.fill_(0.2)
        law.worth.copy_(torch.tensor(0.5).log())
    context = Context.of(seen_corpus, rows)
    scores = law(see(seen_corpus, context, own=True)).detach().numpy()
    settings = HeadSettings(
        directions=8, levelling=0.2, topics=TOPICS, topic_weight=0.5, sketch=0, skip_question_words=False
    )
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
    law = train([(seen, (14 * scores).softmax(dim=1))], seed=0, steps=200)
    assert float(law.levelling.detach()) == pytest.approx(0.25, abs=0.03)


def test_the_target_is_the_teachers_choice():
    taught = target(corpus("one", 12))
    assert taught.shape == (12, 12)
    assert taught.argmax(dim=1).tolist() == list(range(12))
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(12))
