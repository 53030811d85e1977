"""What a corpus head does to texts: attention by hand, exact scores, one vector that ranks as the parts do not lie."""

import json

import numpy as np
import pytest

from cde_retriever.context import neighbours
from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.knowledge import Knowledge
from cde_retriever.context.neighbours import Neighbours, spread_of, unit
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, ContextFormatError, ContextMismatchError
from cde_retriever.lifecycle.kept_vectors import plain_embedding
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.projection import project, signs_of
from cde_retriever.words.reading import WordReader
from cde_retriever.words.sparse import WIDTH, Sparse, added
from cde_retriever.words.statistics import GRAM_PRIOR
from cde_retriever.words.topics import Topics, canonical
from tests.tiny import documents, headed_encoder, tiny_encoder

HEAD = {"topics": 6, "sketch": 9, "query_noise": 0.0, "query_neighbours": 0, "word_scale": 0.0}
TEXTS = documents(30, seed=1)


def head_encoder(**settings):
    return headed_encoder(**{**HEAD, **settings})


SETTINGS = HeadSettings(sharpness=3.0, amount=0.5, typical_spread=0.1)


@pytest.fixture(scope="module")
def encoder():
    encoder = head_encoder()
    encoder.fit_context(TEXTS, context_size=20)
    return encoder


# Neighbours


def test_attention_by_hand():
    context = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    plain = np.array([[0.8, 0.6]], np.float32)
    head = Neighbours(context, SETTINGS)
    half = context.mean(axis=0) / 2
    keys = (context - half) / np.linalg.norm(context - half, axis=1, keepdims=True)
    query = (plain[0] - half) / np.linalg.norm(plain[0] - half)
    cosines = [keys[0] @ keys[1], keys[0] @ keys[2], keys[1] @ keys[2]]
    spread = (3 * np.std(cosines) + 16 * 0.1) / 19
    weights = np.exp(3.0 / spread * (keys @ query))
    moved = plain[0] + 0.5 * (weights / weights.sum()) @ context
    assert head.move(plain, np.array([-1]))[0] == pytest.approx(moved / np.linalg.norm(moved), abs=1e-6)


def test_a_document_of_the_context_does_not_attend_to_itself():
    context = unit(np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    head = Neighbours(context, SETTINGS)
    moved = head.move(context[:1], np.array([0]))
    others = Neighbours(context, SETTINGS)
    assert others._scale > 0  # keys and scale are those of the context as it was
    others._vectors = context.copy()
    others._vectors[0] = 9  # what it does not attend to makes no difference
    assert others.move(context[:1], np.array([0])) == pytest.approx(moved)
    assert np.abs(head.move(context[:1], np.array([-1])) - moved).max() > 1e-3


def test_chunks_attend_to_the_other_chunks_of_their_document_by_hand(monkeypatch):
    rng = np.random.default_rng(1)
    context, plain = (unit(rng.normal(size=(count, 4)).astype(np.float32)) for count in (5, 6))
    head, nothing = Neighbours(context, SETTINGS), np.full(6, -1)
    alone = head.move(plain, nothing)
    half = context.mean(axis=0) / 2
    keys = unit(plain - half)
    cosines = (unit(context - half) @ unit(context - half).T)[np.triu_indices(5, 1)]
    spread = (5 * cosines.std() + 16 * 0.1) / 21
    for chunk, others in ((0, [2, 5]), (2, [0, 5]), (5, [0, 2])):
        weights = np.exp(3.0 / spread * (keys[others] @ keys[chunk]))
        by_hand = plain[chunk] + 0.5 * (weights / weights.sum()) @ plain[others]
        for at_once in (1024, 2):
            monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", at_once)
            moved = head.move(plain, nothing, ["a", None, "a", "b", None, "a"])
            assert moved[chunk] == pytest.approx(by_hand / np.linalg.norm(by_hand), abs=1e-6)
            assert (moved[[1, 3, 4]] == alone[[1, 3, 4]]).all()


def test_chunks_of_a_document_are_told_to_the_encoder(encoder):
    texts, names = TEXTS[:6], ["a", "b", "a", "c", "c", "d"]
    plain, sparse = encoder.encode_documents(texts, parts="both")
    dense, words = encoder.encode_documents(texts, parts="both", chunks_of=names)
    assert (abs(dense - plain).max(axis=1) > 1e-4).tolist() == [True, False, True, True, True, False]
    assert (words - sparse).nnz == 0
    one = encoder.encode_documents(texts, chunks_of=names)
    assert (abs(one - encoder.encode_documents(texts)).max(axis=1) > 1e-4).tolist() == [n in "ac" for n in names]
    with pytest.raises(ValueError, match="chunks_of names 2 documents for 6 texts"):
        encoder.encode_documents(texts, chunks_of=["a", "a"])
    headless = tiny_encoder()
    headless.set_context(headless.null_context())
    with pytest.raises(ConfigError, match="has no corpus head, which knows neighbours"):
        headless.encode_documents(texts, chunks_of=names)


def test_one_document_or_none_moves_nothing():
    plain = unit(np.ones((2, 3), np.float32))
    for count in (0, 1):
        head = Neighbours(np.eye(3, dtype=np.float32)[:count], SETTINGS)
        assert head.move(plain, np.array([-1, -1])).tolist() == plain.tolist()
        assert head.spread == 0.1


def test_the_spread_leaves_out_a_document_with_itself():
    vectors = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    assert spread_of(vectors, 0.0) == pytest.approx(3 / 19 * np.std([0, 1, 0]))


# Topics and projection


def test_a_projection_keeps_inner_products_up_to_noise():
    rng = np.random.default_rng(0)
    one, other = (
        Sparse.of_rows([dict.fromkeys(rng.integers(WIDTH, size=40).tolist(), 0.5) for _ in range(50)]) for _ in "ab"
    )
    both = added(one, other)
    estimated = (project(both, 4096) * project(one, 4096)).sum(axis=1)
    assert estimated.mean() == pytest.approx(10, abs=0.1)
    assert np.std(estimated) == pytest.approx(np.sqrt(10 * 20 / 4096), rel=0.4)


def test_signs_of_many_words_are_made_some_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = Sparse.of_rows(
        [{int(w): float(v) for w, v in zip(rng.integers(0, 90, 40), rng.random(40), strict=True)}, {}, {7: 2.0}]
    )
    expected = np.zeros((3, 70), np.float32)
    for number in range(3):
        places, values = vectors.row(number)
        expected[number] = values @ signs_of(places, 70) / np.sqrt(70)
    for at_once in (1, 7, 1000):
        monkeypatch.setattr("cde_retriever.words.projection.AT_ONCE", at_once)
        np.testing.assert_allclose(project(vectors, 70), expected, atol=1e-6)
        alone = [project(vectors.take(np.array([number])), 70) for number in range(3)]
        np.testing.assert_allclose(np.concatenate(alone), expected, atol=1e-6)


def test_signs_are_bits_of_splitmix64():
    """Steele, Lea & Flood 2014; the state is the word's number and that of the block of 64 signs."""
    for word in (0, 7, WIDTH - 1):
        bits = []
        for block in range(2):
            mixed = ((word << 16) + block + 1) * 0x9E3779B97F4A7C15 % 2**64
            mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
            mixed ^= mixed >> 31
            bits += [octet >> 7 - bit & 1 for octet in mixed.to_bytes(8, "little") for bit in range(8)]
        assert signs_of(np.array([word]), 70)[0].tolist() == [2 * bit - 1 for bit in bits[:70]]


def test_signs_are_even_and_belong_to_the_word():
    signs = signs_of(np.arange(2000), 70)
    assert np.abs(signs).min() == 1
    assert abs(signs.mean()) < 0.01
    assert signs_of(np.array([7, WIDTH - 1]), 70)[0].tolist() == signs[7].tolist()
    assert np.abs(np.corrcoef(signs[:20])[np.triu_indices(20, 1)]).max() < 0.6


def context_words(seed=0, count=12):
    rng = np.random.default_rng(seed)
    return Sparse.of_rows(
        [{int(w): float(rng.uniform(0.2, 1)) for w in rng.integers(60, size=9)} for _ in range(count)]
    )


def test_topics_and_sketch_keep_the_inner_products_of_texts_that_the_topics_span():
    words = context_words()
    embedded = Topics(words, 20, 0).embed(words)  # as many topics as documents: nothing lies outside
    assert embedded.shape == (12, 20)
    assert embedded @ embedded.T == pytest.approx(words.dot(words), abs=1e-4)
    few = Topics(words, 4, 4096).embed(words)
    assert few @ few.T == pytest.approx(words.dot(words), abs=0.35)


def test_topics_do_not_depend_on_signs_and_turns_of_the_decomposition(monkeypatch):
    words, eigh = context_words(), np.linalg.eigh
    first = Topics(words, 5, 8).embed(words)
    flip = np.where(np.arange(12) % 2, 1.0, -1.0)
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (lambda w, v: (w, v * flip))(*eigh(matrix)))
    assert Topics(words, 5, 8).embed(words) == pytest.approx(first, abs=1e-5)


def test_a_canonical_basis_is_orthogonal_and_turns_with_the_places():
    places = np.random.default_rng(0).normal(size=(9, 4))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    basis = canonical(places)
    assert basis.T @ basis == pytest.approx(np.eye(4), abs=1e-9)
    assert (places @ turn) @ canonical(places @ turn) == pytest.approx(places @ basis, abs=1e-9)
    repeated = canonical(np.repeat(places[:1], 5, axis=0))
    assert repeated.T @ repeated == pytest.approx(np.eye(4), abs=1e-9)


def test_sums_of_sparse_vectors():
    total = added(Sparse.of_rows([{3: 1.0, 9: 2.0}, {}]), Sparse.of_rows([{9: 1.0}, {WIDTH - 1: 4.0}]))
    assert total.starts.tolist() == [0, 2, 3]
    assert total.indices.tolist() == [3, 9, WIDTH - 1]
    assert total.values.tolist() == [1.0, 3.0, 4.0]


# The encoder


def test_parts_belong_together(encoder):
    texts = TEXTS[:5]
    both = encoder.encode_documents(texts, parts="both")
    assert both.sparse.shape == (5, WIDTH)
    assert np.linalg.norm(both.dense, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert encoder.encode_documents(texts, parts="dense").tolist() == both.dense.tolist()
    alone = encoder.encode_documents(texts, parts="sparse")
    assert (alone != both.sparse).nnz == 0
    queries = encoder.encode_queries(["lakron 3"], parts="both")
    assert queries.sparse.nnz == encoder.encode_queries(["lakron 3"], parts="sparse").nnz > 0


def test_a_query_is_worth_more_the_more_its_words_say(encoder):
    texts = ["balak koron nosim", "qwxyz"]
    sparse = encoder.encode_queries(texts, parts="sparse")
    settings, head = HeadSettings.from_dict(encoder.config.corpus_head), encoder._active.head
    known, counts = head._knowledge, WordReader("english").read(texts, "query")
    says = []
    for part, prior in ((counts.words, known._prior), (counts.grams, GRAM_PRIOR)):
        statistics = known._words if part is counts.words else known._grams
        power = statistics.information(part.indices, prior, settings.prior_documents) ** 1.5
        says.append(np.sqrt(np.bincount(part.row_numbers, power, 2)))
    unit = head.spread * head.agreement.worth
    assert np.asarray(sparse.sum(axis=1)) == pytest.approx(0.31 * sum(says) * unit, rel=1e-5)


def test_question_words_of_a_query_are_left_out(encoder):
    asked, short = encoder.encode_queries(["how do I balak the koron", "balak koron"], parts="sparse")
    assert (asked != short).nnz == 0
    assert encoder.encode_queries(["how do I"], parts="sparse").nnz > 0  # there is nothing else
    assert encoder.encode_documents(["how do I"], parts="sparse").nnz > 0
    before = head_encoder(word_weight=2.0)  # as stored before there was the setting
    before.fit_context(TEXTS)
    asked, short = before.encode_queries(["how do I balak", "balak"], parts="sparse")
    assert asked.nnz > short.nnz


def test_a_model_stored_before_there_were_powers_keeps_its_numbers():
    settings = HeadSettings.from_dict({"word_weight": 2.0, "gram_weight": 4.0})
    assert (settings.rareness, settings.sharing, settings.skip_question_words) == (1.0, 1.0, False)
    assert HeadSettings.from_dict(HeadSettings().to_dict()) == HeadSettings()
    assert HeadSettings.from_dict({}) == HeadSettings()


def test_a_word_beyond_what_the_model_reads_counts(encoder):
    long = "balak " * 600 + "zevex"
    with pytest.warns(UserWarning, match="were cut"):
        document = encoder.encode_documents([long], parts="both")
    query = encoder.encode_queries(["zevex"], parts="sparse")
    there = Sparse.of_csr(query).dot(Sparse.of_csr(document.sparse))[0, 0]
    assert there > 0
    assert Sparse.of_csr(query).dot(Sparse.of_csr(encoder.encode_documents(["balak"], parts="sparse")))[0, 0] < there


def test_one_vector_scores_as_its_formula_says(encoder):
    documents_, queries = TEXTS[:12], ["balak koron", TEXTS[3]]
    settings = HeadSettings.from_dict(encoder.config.corpus_head)
    wide = head_encoder(topics=32, sketch=0)  # all documents of the context span all their words
    context = wide.fit_context(documents_)
    one = wide.encode_queries(queries) @ wide.encode_documents(documents_).T
    words = CorpusWords.of("english", WordReader("english").read(documents_, "document"))
    known = Knowledge(HeadSettings(**{**HEAD, "topics": 32, "sketch": 0}), context.vectors, words)
    counts = WordReader("english").read(queries, "query").words
    moved, plain = wide.encode_documents(documents_, parts="dense"), wide.encode_queries(queries, parts="dense")
    matches = known._weigh(counts, known._says(counts) ** known.settings.rareness).dot(
        Sparse.of_csr(_words_of(known, documents_))
    )
    expected = plain @ moved.T + settings.topic_weight * known.spread * wide._active.head.agreement.worth * matches
    ratio = one / expected
    assert ratio == pytest.approx(np.repeat(ratio[:, :1], 12, axis=1), rel=2e-3)  # one scale a query


def test_words_beside_meaning_score_as_their_formula_says():
    """With so many numbers a projection has little noise; documents are as long as their words make them."""
    documents_, queries, scale = TEXTS[:12], ["balak koron", TEXTS[3]], 0.1
    wide = headed_encoder(topics=0, sketch=2**16, word_scale=scale, sketch_weight=0.5)
    assert wide.dimension == 32 + 2**16
    context = wide.fit_context(documents_)
    words = CorpusWords.of("english", WordReader("english").read(documents_, "document"))
    known = Knowledge(wide.head_settings, context.vectors, words)
    moved, plain = wide.encode_documents(documents_, parts="dense"), wide.encode_queries(queries, parts="dense")
    weights, counts = Sparse.of_csr(_words_of(known, documents_)), WordReader("english").read(queries, "query").words
    matches = known._weigh(counts, known._says(counts) ** known.settings.rareness).dot(weights)
    expected = plain @ moved.T + 0.5 * known.spread * matches
    root = np.sqrt(np.maximum(known._says(weights), 1e-3))
    halves = np.bincount(weights.row_numbers, (weights.values * root) ** 2, 12)
    lengths = np.sqrt(1 + scale**2 * 0.5 * known.spread * halves)
    assert lengths.max() < 1.02
    there = wide.encode_documents(documents_)
    assert there[:, :32] == pytest.approx(moved / lengths[:, None], abs=2e-3)
    ratio = (wide.encode_queries(queries) @ there.T) * lengths / expected
    assert ratio == pytest.approx(np.repeat(ratio[:, :1], 12, axis=1), rel=0.05)  # one scale a query


def test_the_first_numbers_are_what_a_context_for_the_encoders_size_gives():
    whole, alone = (headed_encoder(**HeadSettings().sized(size, 32).to_dict()) for size in (64, 32))
    cut = whole.fork(truncate_dim=32)
    for one in (cut, alone):
        one.fit_context(TEXTS, context_size=20)
    assert cut.encode_documents(TEXTS).tobytes() == alone.encode_documents(TEXTS).tobytes()
    assert cut.encode_queries(TEXTS[:4]).tobytes() == alone.encode_queries(TEXTS[:4]).tobytes()


def test_fewer_numbers_of_words_count_for_less_as_they_are_noisier():
    usual = HeadSettings()
    assert usual.sized(768, 384) == usual
    few = usual.sized(512, 384)
    assert few == usual.cut(384, 512)
    assert few.sketch_weight == pytest.approx(0.4 * (128 / 560) / (384 / 816))
    assert usual.sized(1536, 768).sketch_weight == pytest.approx(0.85 * 768 / 1200)
    encoders = [headed_encoder(**usual.sized(size, 32).to_dict()) for size in (32, 33, 416)]
    scores = []
    for one in encoders:
        one.set_context(one.null_context())
        scores.append(one.encode_queries(TEXTS[:5]) @ one.encode_documents(TEXTS).T)
    near, far = (np.corrcoef(scores[0].ravel(), other.ravel())[0, 1] for other in scores[1:])
    assert near > 0.99 > far


def _words_of(known, texts):
    from cde_retriever.words.weights import weigh_documents

    return weigh_documents(WordReader("english").read(texts, "document").words, known._lengths[0]).csr()


def test_vectors_are_unit_and_as_wide_as_said(encoder):
    assert encoder.dimension == 32 + 6 + 9 + 1
    for vectors in (encoder.encode_documents([*TEXTS, "", "balak " * 50]), encoder.encode_queries(["", "koron"])):
        assert vectors.shape[1] == encoder.dimension
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)


@pytest.mark.parametrize("width", [40, 34, 33, 32, 8])
def test_shorter_vectors_leave_out_the_sketch_then_the_topics(encoder, width):
    short = encoder.fork(truncate_dim=width)
    short.set_context(encoder.context)
    vectors = short.encode_documents(TEXTS[:3])
    assert vectors.shape == (3, width)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_a_dense_part_is_not_cut(encoder):
    short = encoder.fork(truncate_dim=20)
    short.set_context(encoder.context)
    for parts in ("dense", "both"):
        for encode in (short.encode_documents, short.encode_queries):
            with pytest.raises(ConfigError, match="truncate_dim is 20, and cuts texts in one vector alone; leave"):
                encode(TEXTS[:3], parts=parts)
    assert short.encode_documents(TEXTS[:3], parts="sparse").shape[0] == 3
    whole = encoder.without_context().encode_documents(TEXTS[:3], parts="dense")
    np.testing.assert_array_equal(plain_embedding(short)(TEXTS[:3], "document"), whole)
    assert encoder.fork(truncate_dim=encoder.dimension).truncate_dim is None


def test_vectors_do_not_depend_on_company_or_on_what_is_added(encoder):
    alone = np.concatenate([encoder.encode_documents([text]) for text in TEXTS[:4]])
    assert encoder.encode_documents(TEXTS)[:4] == pytest.approx(alone, abs=1e-5)


def test_many_contexts_at_once_give_what_each_gives(encoder):
    null = encoder.null_context()
    other = encoder.fork()
    other.set_context(null)
    made = encoder.encode_under(TEXTS[:3], "document", [encoder.context, null])
    assert made[0] == pytest.approx(encoder.encode_documents(TEXTS[:3]), abs=1e-6)
    assert made[1] == pytest.approx(other.encode_documents(TEXTS[:3]), abs=1e-6)
    asked = encoder.encode_under(["koron"], "query", [null])
    assert asked[0] == pytest.approx(other.encode_queries(["koron"]), abs=1e-6)


def test_the_null_context_moves_nothing():
    encoder = head_encoder()
    encoder.set_context(encoder.null_context())
    assert encoder.encode_documents(TEXTS[:3], parts="dense") == pytest.approx(encoder.encode_first_stage(TEXTS[:3]))
    assert encoder.encode_documents(TEXTS[:3]).shape == (3, encoder.dimension)


@pytest.mark.parametrize(
    "config",
    [
        {"corpus_head": {}, "context_moments": False, "pool_prompt": False},
        {"corpus_head": {}, "context_moments": False, "long_texts": "windows"},
        {"pool_prompt": False},  # moments, which change nothing under the null context
    ],
)
def test_the_first_stage_reads_prompts_and_long_texts_as_the_second_does(config):
    prompts = {"query": "baron kosim miro: ", "document": ""}
    encoder = tiny_encoder(context_attention="late", share_backbone=True, prompts=prompts, **config).without_context()
    short, long = documents(3), [" ".join(documents(40))]
    asked, found = encoder.encode_queries(short, parts="dense"), encoder.encode_documents(long, parts="dense")
    assert encoder.encode_first_stage(short, role="query") == pytest.approx(asked, abs=1e-6)
    assert encoder.encode_first_stage(long) == pytest.approx(found, abs=1e-6)


def test_a_model_without_a_head_has_one_vector():
    encoder = tiny_encoder()
    encoder.fit_context(TEXTS)
    assert encoder.encode_documents(TEXTS[:2], parts="dense").tolist() == encoder.encode_documents(TEXTS[:2]).tolist()
    with pytest.raises(ConfigError, match="parts is 'both', but model 'tiny-bert' has no corpus head"):
        encoder.encode_documents(TEXTS[:2], parts="both")
    with pytest.raises(ConfigError, match="parts is 'all', expected one of 'one'"):
        encoder.encode_queries(["a"], parts="all")
    with pytest.raises(ConfigError, match="language is 'german', but model 'tiny-bert' has no corpus head"):
        encoder.fit_context(TEXTS, language="german")


# The artifact


def test_a_context_with_words_is_stored_and_opens(encoder, tmp_path):
    encoder.context.save(tmp_path)
    opened = Context.load(tmp_path)
    assert opened.fingerprint == encoder.context.fingerprint
    assert opened.record_format.version == 2
    again = head_encoder()
    again.set_context(opened)
    assert again.encode_documents(TEXTS[:3]).tolist() == encoder.encode_documents(TEXTS[:3]).tolist()


def test_order_of_the_context_does_not_matter(encoder):
    context = encoder.context
    turned = np.arange(context.size)[::-1]
    counts = Sparse.of_rows([dict(zip(*map(list, context.words.counts.row(int(i))), strict=True)) for i in turned])
    other = Context(
        vectors=context.vectors[turned],
        model=context.model,
        text_hashes=tuple(context.text_hashes[i] for i in turned),
        texts=tuple(context.texts[i] for i in turned),
        words=CorpusWords(context.words.language, counts, context.words.grams, context.words.pairs),
    )
    assert other.fingerprint == context.fingerprint
    again = encoder.fork()
    again.set_context(other)
    assert again.encode_documents(TEXTS[:3]) == pytest.approx(encoder.encode_documents(TEXTS[:3]), abs=1e-5)


def test_a_changed_count_is_noticed(encoder):
    data = bytearray(encoder.context.to_bytes())
    data[-40] ^= 1
    with pytest.raises(ContextFormatError):
        Context.from_bytes(bytes(data))


def test_another_language_is_another_context(encoder):
    other = encoder.fork()
    german = other.fit_context(TEXTS, context_size=20, language="german")
    assert german.fingerprint != encoder.context.fingerprint
    with pytest.raises(ConfigError, match="no stemmer"):
        other.fit_context(TEXTS, language="latin")


def test_a_context_of_other_head_numbers_is_refused(encoder):
    with pytest.raises(ContextMismatchError, match="sha256"):
        head_encoder(word_weight=1.0).set_context(encoder.context)


def test_settings_are_checked_and_stored(tmp_path):
    with pytest.raises(ConfigError, match=r"amount is -1, expected at least 0.*|corpus_head"):
        head_encoder(amount=-1)
    with pytest.raises(ConfigError, match=r"unknown keys \['sharpnes'\]"):
        head_encoder(sharpnes=1)
    with pytest.raises(ConfigError, match="corpus_head needs context_attention 'late'"):
        tiny_encoder(corpus_head=HEAD)
    folder = head_encoder().save_pretrained(tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["corpus_head"] == HEAD
    opened = ContextualEncoder.from_pretrained(folder, device="cpu")
    opened.fit_context(TEXTS, context_size=20)
    assert opened.encode_documents(TEXTS[:2]).shape == (2, 48)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_exports_give_the_same_parts(encoder, tmp_path, backend, exports):
    folder = encoder.save_pretrained(tmp_path / "model")
    exported = ContextualEncoder.from_pretrained(folder, backend=backend)
    assert exported.fit_context(TEXTS, context_size=20).fingerprint == encoder.context.fingerprint
    ours, theirs = (e.encode_documents(TEXTS[:4], parts="both") for e in (encoder, exported))
    assert theirs.dense == pytest.approx(ours.dense, abs=1e-5)
    assert (theirs.sparse != ours.sparse).nnz == 0
    assert exported.encode_queries(["koron 7"]) == pytest.approx(encoder.encode_queries(["koron 7"]), abs=1e-4)
