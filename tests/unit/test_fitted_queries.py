"""A context for queries alone: exact words of few documents, the fit against scikit-learn's, documents as they were."""

import json
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cde_retriever.backends.export import export_onnx
from cde_retriever.checkpoint.reading import QUERIES, Reading
from cde_retriever.cli.main import main
from cde_retriever.context import knowledge
from cde_retriever.context.context import Context
from cde_retriever.context.fitted_queries import FittedQueries
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.context.neighbours import unit
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.search.hybrid import inner_products
from cde_retriever.serving.exploration import Exploration
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.postings import ROWS_AT_ONCE, Postings
from cde_retriever.words.reading import reader
from cde_retriever.words.sparse import Sparse
from tests.plain_models import save_model
from tests.tiny import documents, headed_encoder, tiny_checkpoint

TEXTS = documents(30, seed=1)
ASKED = ["baron kolak", *documents(4, seed=9, words=5)]
RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="module")
def encoder():
    return headed_encoder(**HeadSettings().for_queries().to_dict())


def some_sparse(rows, places=40):
    return [
        {int(place): float(RANDOM.random()) for place in RANDOM.choice(places, RANDOM.integers(0, 9), replace=False)}
        for _ in range(rows)
    ]


def in_full(rows, places=40):
    return np.array([[row.get(place, 0.0) for place in range(places)] for row in rows])


@pytest.mark.parametrize(("queries", "kept"), [(5, 7), (ROWS_AT_ONCE + 3, 7), (0, 7), (5, 0)])
def test_words_of_few_documents_are_scored_as_inner_products_are(queries, kept):
    asked, there = some_sparse(queries), some_sparse(kept)
    found = Postings(Sparse.of_rows(there)).scores(Sparse.of_rows(asked))
    expected = in_full(asked).reshape(-1, 40) @ in_full(there).reshape(-1, 40).T
    assert found.shape == (queries, kept)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("count", [6, 60])  # fewer documents than numbers, and more
def test_the_fit_is_ridge_regression_of_what_words_score_on_where_documents_lie(count):
    vectors = unit(RANDOM.normal(size=(count, 12)).astype(np.float32))
    plain = unit(RANDOM.normal(size=(5, 12)).astype(np.float32))
    asked, there = some_sparse(5), some_sparse(count)
    scores = in_full(asked) @ in_full(there).T
    centred = vectors - vectors.mean(axis=0)
    model = Ridge(alpha=0.3 * (centred**2).sum() / count).fit(vectors, scores.T)
    found = FittedQueries(vectors, Postings(Sparse.of_rows(there)), 0.3, 0).fit(plain, Sparse.of_rows(asked))
    np.testing.assert_allclose(found, unit(plain + model.coef_.astype(np.float32)), atol=1e-5)


def test_a_query_is_fitted_to_the_documents_nearest_to_it_by_meaning_and_words():
    vectors = unit(RANDOM.normal(size=(50, 12)).astype(np.float32))
    plain = unit(RANDOM.normal(size=(6, 12)).astype(np.float32))
    asked, there = some_sparse(6), some_sparse(50)
    scores = in_full(asked) @ in_full(there).T
    both = plain @ vectors.T + scores
    chosen = [sorted(range(50), key=row.__getitem__)[-7:] for row in both]
    assert [set(rows) for rows in chosen] != [set(rows) for rows in np.argsort(plain @ vectors.T)[:, -7:]]
    expected = []
    for query, of_words, nearest in zip(plain, scores, chosen, strict=True):
        centred = vectors[nearest] - vectors[nearest].mean(axis=0)
        model = Ridge(alpha=0.3 * (centred**2).sum() / 7).fit(vectors[nearest], of_words[nearest])
        expected.append(query + model.coef_)
    words = Sparse.of_rows(there), Sparse.of_rows(asked)
    found = FittedQueries(vectors, Postings(words[0]), 0.3, 7).fit(plain, words[1])
    np.testing.assert_allclose(found, unit(np.array(expected, np.float32)), atol=1e-5)
    alone = [
        FittedQueries(vectors, Postings(words[0]), 0.3, 7).fit(plain[i : i + 1], words[1].take([i]))[0]
        for i in range(6)
    ]
    assert np.array(alone).tolist() == found.tolist(), "a vector does not depend on its company"
    whole = FittedQueries(vectors, Postings(words[0]), 0.3, 0).fit(plain, words[1])
    assert FittedQueries(vectors, Postings(words[0]), 0.3, 99).fit(plain, words[1]).tolist() == whole.tolist()


def test_a_fit_to_all_of_many_documents_takes_no_memory_for_their_pairs():
    vectors = unit(RANDOM.normal(size=(3000, 12)).astype(np.float32))
    words = Sparse.of_rows([{1: 1.0}] * 1500 + [{2: 1.0}] * 1500)
    fitted = FittedQueries(vectors, Postings(words), 0.3, 0)
    tracemalloc.start()
    try:
        fitted.fit(vectors[:2], Sparse.of_rows([{1: 1.0}, {2: 0.5}]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3000**2 / 4


def test_parts_of_documents_are_added():
    there = [some_sparse(7) for _ in range(2)]
    asked = some_sparse(5)
    found = Postings(*map(Sparse.of_rows, there)).scores(Sparse.of_rows(asked))
    np.testing.assert_allclose(found, in_full(asked) @ (in_full(there[0]) + in_full(there[1])).T, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_documents_that_do_not_differ_leave_queries_as_they_are(count):
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (count, 1))
    plain = unit(RANDOM.normal(size=(3, 4)).astype(np.float32))
    words = Sparse.of_rows([{1: 1.0}] * count)
    assert (
        FittedQueries(vectors, Postings(words), 0.1, 2).fit(plain, Sparse.of_rows([{1: 1.0}] * 3)).tolist()
        == plain.tolist()
    )


def test_a_context_changes_queries_and_no_document(encoder):
    encoder.set_context(encoder.null_context())
    documents_, queries = encoder.encode_documents(TEXTS), encoder.encode_queries(ASKED)
    plain = [encoder.encode_documents(TEXTS, parts="dense"), encoder.encode_queries(ASKED, parts="dense")]
    assert (documents_.tolist(), queries.tolist()) == (plain[0].tolist(), plain[1].tolist())
    encoder.fit_context(TEXTS[:20])
    assert encoder.dimension == documents_.shape[1]
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), documents_, atol=1e-6)
    fitted = encoder.encode_queries(ASKED)
    assert np.abs(fitted - queries).max() > 0.05
    np.testing.assert_allclose(np.linalg.norm(fitted, axis=1), 1, atol=1e-6)


def test_queries_are_fitted_to_the_exact_words_of_the_context_s_documents(encoder):
    encoder.fit_context(TEXTS, context_size=30)
    there, asked = encoder.encode_documents(TEXTS, parts="both"), encoder.encode_queries(ASKED, parts="both")
    scores = inner_products(asked.sparse, there.sparse)
    assert (scores > 0).any()
    centred = there.dense - there.dense.mean(axis=0, dtype=float)
    model = Ridge(alpha=0.05 * (centred**2).sum() / 30).fit(there.dense.astype(float), scores.T.astype(float))
    expected = unit(asked.dense + model.coef_.astype(np.float32))
    np.testing.assert_allclose(encoder.encode_queries(ASKED), expected, atol=1e-4)


def test_threads_that_come_at_once_prepare_a_context_once(encoder, monkeypatch):
    class Slow(FittedQueries):
        def __init__(self, *given):
            made.append(given)
            time.sleep(0.05)
            super().__init__(*given)

    made = []
    monkeypatch.setattr(knowledge, "FittedQueries", Slow)
    one = encoder.fork()
    one.fit_context(TEXTS)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda asked: one.encode_queries([asked]), ASKED[1:]))
    assert len(made) == 1
    np.testing.assert_array_equal(np.concatenate(found), one.encode_queries(ASKED[1:]))


def fitted_by_scikit_learn(asked, there, of_both, noise=0.05):
    """Return queries, (n, m), at unit length, whose products with documents, (J, m), are fitted to scores, (n, J)."""
    documents_, scores = there.astype(float), of_both.astype(float)
    centred = documents_ - documents_.mean(axis=0)
    missing = scores - asked @ documents_.T
    model = Ridge(alpha=noise * (centred**2).sum() / len(centred)).fit(documents_, missing.T)
    return unit((asked + model.coef_).astype(np.float32))


def of_both_parts(encoder):
    there, asked = encoder.encode_documents(TEXTS, parts="both"), encoder.encode_queries(ASKED, parts="both")
    return asked.dense, asked.dense @ there.dense.T + inner_products(asked.sparse, there.sparse)


@pytest.mark.parametrize("head", [HeadSettings(), HeadSettings().sized(32, 32), HeadSettings().for_queries()])
def test_a_vector_that_is_cut_is_fitted_to_the_scores_of_whole_ones(head):
    encoder = headed_encoder(**head.to_dict())
    short = encoder.fork(truncate_dim=10)
    encoder.set_context(short.fit_context(TEXTS, context_size=30))
    there = short.encode_documents(TEXTS)
    assert there.shape == (30, 10)
    plain, scores = of_both_parts(encoder)
    expected = fitted_by_scikit_learn(unit(plain[:, :10]), there, scores)
    np.testing.assert_allclose(short.encode_queries(ASKED), expected, atol=1e-4)


@pytest.mark.parametrize("size", [12, 50])
def test_vectors_of_another_size_are_fitted_to_the_scores_of_both_parts(size):
    encoder = headed_encoder(**HeadSettings().sized(size, 32).to_dict())
    encoder.fit_context(TEXTS, context_size=30)
    assert encoder.dimension == size
    there = encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(there, axis=1), 1, atol=1e-6)
    plain, scores = of_both_parts(encoder)
    order = np.argsort(encoder.context.text_hashes, kind="stable")
    words = encoder.context.words.take(order)
    within = Knowledge(encoder.head_settings, encoder.context.vectors[order], words).within
    stems = reader("english").read_stems(ASKED, "query", skip_question_words=True)
    asked = within.queries(plain, stems)
    of_texts = reader("english").read_stems(TEXTS, "document")
    at_length = within.documents(encoder.encode_documents(TEXTS, parts="dense"), of_texts)
    np.testing.assert_allclose(there, unit(at_length), atol=1e-6)
    there = there * np.linalg.norm(at_length, axis=1).mean()
    expected = fitted_by_scikit_learn(asked, there, scores, encoder.head_settings.query_noise)
    np.testing.assert_allclose(encoder.encode_queries(ASKED), expected, atol=1e-4)
    # Before the fit they say of both parts what they have room for.
    rough = asked @ there.T
    assert np.corrcoef(rough.ravel(), scores.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("size", [12, 50])
@pytest.mark.filterwarnings("error")
def test_vectors_of_another_size_have_length_one_where_nothing_can_be_fitted(size):
    encoder = headed_encoder(**HeadSettings().sized(size, 32).to_dict())
    encoder.fit_context(TEXTS[:1])
    for context in (encoder.context, encoder.null_context()):
        encoder.set_context(context)
        assert encoder.encode_queries(ASKED).shape == (len(ASKED), size)
        for texts in (encoder.encode_queries(ASKED), encoder.encode_documents(TEXTS)):
            np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("size", "parts"), [(12, ["meaning and words"]), (50, ["meaning and words"]), (32, None)])
def test_a_score_is_taken_apart_where_its_parts_have_its_unit(size, parts):
    encoder = headed_encoder(**HeadSettings().sized(size, 32).to_dict())
    encoder.fit_context(TEXTS, context_size=30)
    explored = Exploration(TEXTS, encoder, "one", lambda texts, role: encoder.encode_first_stage(texts, role=role))
    score = explored.explain(ASKED[0], 0).score
    assert list(score) == (parts or ["meaning", "fit to the context's words"])
    expected = encoder.encode_queries(ASKED[:1])[0] @ encoder.encode_documents(TEXTS[:1])[0]
    assert sum(score.values()) == pytest.approx(float(expected), abs=1e-5)


def test_words_of_documents_that_no_context_holds_are_in_vectors_of_more_numbers():
    usual, wide = (headed_encoder(**HeadSettings().sized(size, 32).to_dict()) for size in (32, 64))
    later = documents(40, seed=7)
    ranks = []
    for encoder in (usual, wide):
        encoder.fit_context(TEXTS[:6])
        there, asked = encoder.encode_documents(later), encoder.encode_queries([text[:40] for text in later])
        scores = asked @ there.T
        ranks.append((scores > np.diag(scores)[:, None]).sum(axis=1).mean())
    assert ranks[1] < ranks[0] / 2


def test_the_order_of_the_context_s_documents_is_of_no_account(encoder):
    encoder.list_context(TEXTS[:16])
    first = encoder.encode_queries(ASKED)
    encoder.list_context(TEXTS[:16][::-1])
    np.testing.assert_allclose(encoder.encode_queries(ASKED), first, atol=1e-6)


def test_a_stored_context_fits_queries_as_before(encoder, tmp_path):
    context = encoder.fit_context(TEXTS)
    fitted = encoder.encode_queries(ASKED)
    again = encoder.fork()
    again.set_context(Context.load(context.save(tmp_path / "one.safetensors")))
    assert again.context.fingerprint == context.fingerprint
    assert again.encode_queries(ASKED).tolist() == fitted.tolist()


def test_what_a_context_keeps_of_words_is_read_back_or_refused(tmp_path):
    words = CorpusWords.of("english", reader("english").read(TEXTS, "document"), whole=True)
    arrays = words.arrays()
    read = CorpusWords.of_arrays("english", arrays)
    assert [part.indices.tolist() for part in read.whole] == [part.indices.tolist() for part in words.whole]
    assert CorpusWords.of("english", reader("english").read(TEXTS, "document")).whole is None
    one_missing = {name: array for name, array in arrays.items() if "pair_counts" not in name}
    with pytest.raises(ValueError, match="grams or pairs of the documents are missing"):
        CorpusWords.of_arrays("english", one_missing)
    with pytest.raises(ValueError, match="words_gram_counts_starts do not cover"):
        CorpusWords.of_arrays("english", arrays | {"words_gram_counts_starts": arrays["words_gram_counts_starts"] + 1})
    with pytest.raises(ValueError, match="not equally many"):
        CorpusWords.of_arrays("english", arrays | {"words_pair_counts_starts": np.array([0, len(words.beyond[1][1])])})
    order = np.arange(len(TEXTS))[::-1]
    assert words.take(order).take(order).whole.pairs.indices.tolist() == words.whole.pairs.indices.tolist()


def test_an_encoder_is_opened_so_and_written_so(tmp_path, capsys):
    save_model(tmp_path)
    assert main(["wrap", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--context-for", QUERIES]) == 0
    said = json.loads(capsys.readouterr().out)
    opened, whole = (
        ContextualEncoder.from_pretrained(tmp_path / "model", context_for=side) for side in (QUERIES, None)
    )
    assert said["dimension"] == opened.dimension == whole.dense_dimension
    assert (opened.config.context_size, whole.config.context_size) == (8192, 8192)
    written, again = (ContextualEncoder.from_pretrained(tmp_path / "out", context_for=side) for side in (None, QUERIES))
    assert written.identity == again.identity == replace(opened.identity, name="model")
    written.set_context(opened.fit_context(TEXTS))
    np.testing.assert_allclose(written.encode_queries(ASKED), opened.encode_queries(ASKED), atol=1e-5)
    short = ContextualEncoder.from_pretrained(tmp_path / "model", vector_size=8)
    whole.fit_context(TEXTS)
    said = (
        r"with the vector_size and context_for that it was made with \(commands: a folder by `cde wrap`\), "
        r"or build an index of an earlier version again, or fit a"
    )
    for one, other in ((whole, opened), (opened.fork(), whole), (short, whole), (opened.fork(), short)):
        with pytest.raises(ContextMismatchError, match=said):
            one.fork().set_context(other.context if other.has_context else other.fit_context(TEXTS))


def test_a_checkpoint_with_a_head_is_opened_so_and_keeps_what_its_head_says_of_words(tmp_path):
    head = {"language": "german", "word_weight": 0.2, "topics": 6, "sketch": 9}
    folder = headed_encoder(**head).save_pretrained(tmp_path / "head")
    opened = ContextualEncoder.from_pretrained(folder, context_for=QUERIES)
    assert opened.identity.sha256 != ContextualEncoder.from_pretrained(folder).identity.sha256
    settings = opened.head_settings
    assert (settings.language, settings.word_weight) == ("german", 0.2)
    assert (settings.query_noise, settings.query_neighbours) == (0.05, 256)
    assert (settings.amount, settings.topics, settings.sketch, settings.moves_documents) == (0, 0, 0, False)
    assert opened.dimension == opened.dense_dimension
    other = tiny_checkpoint(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"context_for is 'queries', but .* has no corpus head"):
        ContextualEncoder.from_pretrained(other, context_for=QUERIES)


def test_an_export_is_opened_so_if_its_model_was(tmp_path):
    folder = headed_encoder().save_pretrained(tmp_path / "head")
    opened = ContextualEncoder.from_pretrained(folder, context_for=QUERIES)
    export_onnx(folder, tmp_path / "so", reading=Reading(context_for=QUERIES))
    export_onnx(folder, tmp_path / "not")
    context = opened.fit_context(TEXTS)
    for side in (QUERIES, None):
        export = ContextualEncoder.from_pretrained(tmp_path / "so", backend="onnx", context_for=side)
        export.set_context(context)
        np.testing.assert_allclose(export.encode_queries(ASKED), opened.encode_queries(ASKED), atol=1e-5)
    with pytest.raises(
        ConfigError, match=r"opened without context_for='queries'; export that model with it \(`cde exp"
    ):
        ContextualEncoder.from_pretrained(tmp_path / "not", backend="onnx", context_for=QUERIES)


def test_what_does_not_go_together_is_refused(encoder):
    with pytest.raises(ConfigError, match="context_for is 'documents', expected 'queries', or None"):
        Reading(context_for="documents")
    with pytest.raises(ConfigError, match="context_for is 'queries', which leaves vectors as they are; vector_size 24"):
        Reading(context_for=QUERIES, vector_size=24)
    with pytest.raises(ConfigError, match="context_for is 'queries', which needs the head"):
        Reading(context_for=QUERIES, head=False)
    encoder.fit_context(TEXTS)
    with pytest.raises(ConfigError, match=r"chunks_of is given, but the context of .* is for queries alone"):
        encoder.encode_documents(TEXTS[:2], chunks_of=["a", "a"])


def test_a_damaged_file_is_refused(encoder, tmp_path):
    path = encoder.fit_context(TEXTS).save(tmp_path / "one.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ContextFormatError):
        Context.load(path)
