"""The doctor: trials, measures, settings that are those of the encoder, kept vectors, reports, the command."""

import json
import random
import re
from dataclasses import replace

import ir_measures
import numpy as np
import pytest

from benchmarks.doctor import agrees
from cde_retriever.cli.main import main
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError, CorpusError
from cde_retriever.lifecycle.doctor import BM25, MIXTURE, PLAIN, Setting, examine, interval, merge, recommend
from cde_retriever.lifecycle.kept_vectors import KeptVectors, plain_embedding
from cde_retriever.lifecycle.report import make_report
from cde_retriever.lifecycle.trial import JUDGED, Question, Trial, automatic_trial, judged_trial, ndcg
from cde_retriever.search.bm25 import score_bm25
from cde_retriever.search.hybrid import score, weigh
from tests.tiny import WORDS, headed_encoder, tiny_encoder


@pytest.fixture(scope="module")
def headed():
    return headed_encoder()


def pages(count):
    """Return documents of a heading, a first sentence and more."""
    rng = random.Random(0)

    def words(length):
        return " ".join(rng.choices(WORDS, k=length))

    rare = [" ".join(f"{name}{i % 7}" for name in ("topic", "field", "subject")) for i in range(count)]
    return [f"{words(3)}\n\n{words(7).capitalize()} {i}. {words(40)} {rare[i]}." for i in range(count)]


def test_made_questions_do_not_stand_in_the_documents_that_are_searched():
    corpus = pages(40)
    trial = automatic_trial(corpus, documents=30, questions=20)
    assert (len(trial.documents), len(trial.questions), trial.seen) == (30, 20, 40)
    assert {question.kind for question in trial.questions} == {"heading", "lead", "keywords", "crop"}
    for question in trial.questions:
        ((place, gain),) = question.answers.items()
        assert gain == 1
        if question.kind != "keywords":
            assert question.text not in trial.documents[place]
            assert any(question.text in text for text in corpus)
    assert trial == automatic_trial(corpus[::-1], documents=30, questions=20)
    assert trial != automatic_trial(corpus, documents=30, questions=20, seed=1)
    with pytest.raises(CorpusError, match="none of 2 documents gives a question"):
        automatic_trial(["short", "text"], documents=5, questions=5)


def test_a_judged_trial_keeps_the_answers():
    corpus = [(str(i), text) for i, text in enumerate(pages(40))]
    queries = [("one", {"7": 1.0, "9": 2.0}), ("two", {"gone": 1.0}), ("three", {"39": 1.0})]
    trial = judged_trial(corpus, queries, documents=10, questions=5)
    assert (len(trial.documents), trial.seen) == (10, 40)
    found = {
        question.text: {trial.documents[place]: gain for place, gain in question.answers.items()}
        for question in trial.questions
    }
    assert found == {"one": {corpus[7][1]: 1.0, corpus[9][1]: 2.0}, "three": {corpus[39][1]: 1.0}}
    with pytest.raises(CorpusError, match=r"a query, such as 'gone', is in the corpus, whose ids are such as '0'"):
        judged_trial(corpus, queries[1:2], documents=10, questions=5)


def test_one_document_is_no_search():
    one = " ".join(WORDS)
    with pytest.raises(CorpusError, match="one distinct document to search"):
        automatic_trial([one] * 3, documents=9, questions=9)
    with pytest.raises(CorpusError, match="one distinct document to search"):
        judged_trial([("a", one), ("b", one)], [("what?", {"a": 1.0})], documents=9, questions=9)


def test_ndcg_is_trec_evals():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 25)).astype(np.float32)
    gains = [{int(i): float(rng.integers(1, 4)) for i in rng.choice(25, 13, replace=False)} for _ in scores]
    ours = ndcg(scores, [Question("", answers, "") for answers in gains])
    judged = {str(q): {str(d): int(gain) for d, gain in row.items()} for q, row in enumerate(gains)}
    run = {str(q): {str(d): float(value) for d, value in enumerate(row)} for q, row in enumerate(scores)}
    theirs = {found.query_id: found.value for found in ir_measures.iter_calc([ir_measures.nDCG @ 10], judged, run)}
    np.testing.assert_allclose(ours, [theirs[str(q)] for q in range(len(scores))], atol=1e-6)
    unfound = np.array([[-np.inf, 1.0, -np.inf]], np.float32)
    assert ndcg(unfound, [Question("", {0: 1.0}, "")])[0] == 0
    assert ndcg(unfound, [Question("", {1: 1.0}, "")])[0] == 1


def test_documents_of_stop_words_alone_have_no_score_by_words():
    assert [row.tolist() for row in score_bm25(["the of", "and"], ["the word", ""])] == [[0, 0], [0, 0]]
    assert next(score_bm25(["the of", "some word"], ["the word"])).tolist()[0] == 0


def test_settings_are_those_of_the_encoder(headed, tmp_path):
    trial = automatic_trial(pages(40), documents=40, questions=20)
    found = {one.name: one for one in examine(headed, trial, plain_embedding(headed), foreign=pages(9), sizes=(8, 16))}
    assert len(found) == 10
    texts = [question.text for question in trial.questions]
    for size in (8, 16):
        encoder = headed.fork()
        encoder.fit_context(trial.documents, context_size=size)
        both = score(*(encode(t, parts="both") for encode, t in (
            (encoder.encode_queries, texts), (encoder.encode_documents, trial.documents))))  # fmt: skip
        own = found[f"two parts, own context of {size}"]
        np.testing.assert_allclose(own.quality, ndcg(both, trial.questions), atol=1e-6)
        assert own.agreement == pytest.approx(encoder._active.head.agreement.value)
    assert found[PLAIN].agreement is found["two parts, null context"].agreement is None
    one = encoder.encode_queries(texts) @ encoder.encode_documents(trial.documents).T
    np.testing.assert_allclose(found["one vector, own context of 16"].quality, ndcg(one, trial.questions), atol=1e-6)
    alone = ContextualEncoder.from_pretrained(headed.save_pretrained(tmp_path / "it"), context_for="queries")
    alone.fit_context(trial.documents)
    fitted = alone.encode_queries(texts) @ alone.encode_documents(trial.documents).T
    quality = found["documents as they are, own context of 40"].quality
    np.testing.assert_allclose(quality, ndcg(fitted, trial.questions), atol=1e-6)
    encoder.set_context(encoder.null_context())
    plain = encoder.encode_queries(texts, parts="dense") @ encoder.encode_documents(trial.documents, parts="dense").T
    np.testing.assert_allclose(found[PLAIN].quality, ndcg(plain, trial.questions), atol=1e-6)
    assert {found[BM25].model, found[MIXTURE].model} == {"", "tiny-bert"}


def test_one_vector_is_measured_under_the_share_that_a_context_holds_of_the_corpus(headed):
    trial = automatic_trial(pages(80), documents=40, questions=20)
    assert trial.share == 0.5
    found = {one.name: one for one in examine(headed, trial, plain_embedding(headed), sizes=(8, 16))}
    encoder = headed.fork()
    encoder.fit_context(trial.documents, context_size=8)
    one = encoder.encode_queries([question.text for question in trial.questions]) @ (
        encoder.encode_documents(trial.documents).T
    )
    np.testing.assert_allclose(found["one vector, own context of 8"].quality, ndcg(one, trial.questions), atol=1e-6)
    assert {"two parts, own context of 16", "documents as they are, own context of 40"} < set(found)
    copies = automatic_trial([*pages(30), *pages(30)], documents=40, questions=20)
    assert (len(copies.documents), copies.seen, copies.share) == (30, 60, 1.0)
    assert "one vector, own context of 16" in {
        one.name for one in examine(headed, copies, plain_embedding(headed), sizes=(8, 16))
    }


def test_judged_questions_also_try_words_that_count_more_and_less(headed):
    made = automatic_trial(pages(40), documents=40, questions=20)
    trial = replace(made, questions=tuple(replace(question, kind=JUDGED) for question in made.questions))
    assert (made.judged, trial.judged) == (False, True)
    found = {one.name: one for one in examine(headed, trial, plain_embedding(headed), sizes=(8, 16))}
    encoder = headed.fork()
    encoder.fit_context(trial.documents, context_size=16)
    asked = encoder.encode_queries([question.text for question in trial.questions], parts="both")
    documents = encoder.encode_documents(trial.documents, parts="both")
    for alpha, name in ((1 / 3, "0.33"), (2 / 3, "0.67")):
        one = found[f"two parts, own context of 16, alpha {name}"]
        assert one.alpha == alpha
        np.testing.assert_allclose(one.quality, ndcg(score(weigh(asked, alpha), documents), trial.questions), atol=1e-6)
    assert sum(one.alpha != 0.5 for one in found.values()) == 2


def test_another_alpha_is_recommended_only_beyond_chance():
    own, plain = settings(own512=0.6, plain=0.5)
    words = replace(own, name="words", alpha=1 / 3)
    level = replace(words, quality=own.quality + np.random.default_rng(1).normal(0.001, 0.1, 200))
    assert recommend([plain, own, level], judged=True).alpha == 0.5
    better = replace(words, quality=own.quality + 0.03)
    assert recommend([plain, own, better], judged=True).alpha == 1 / 3
    trial = Trial(("a",), tuple(Question("q", {0: 1.0}, JUDGED) for _ in range(200)), 1)
    code = make_report(trial, [plain, own, better], None).values["code"]
    assert 'queries = weigh(encoder.encode_queries(questions, parts="both"), 0.33)' in code
    assert "from cde_retriever.search.hybrid import weigh" in code
    compile(code, "report", "exec")
    assert "weigh" not in make_report(trial, [plain, own], None).values["code"]


def test_a_model_without_a_corpus_head_is_refused():
    with pytest.raises(ConfigError, match="no corpus head"):
        plain_embedding(tiny_encoder())


def test_vectors_are_kept_through_an_interruption_and_made_again_when_damaged(tmp_path):
    asked = []

    def embed(texts, role):
        if len(asked) == 2:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(list(texts))
        return np.array([[len(text), role == "query"] for text in texts], np.float32)

    texts = ["x" * n for n in random.Random(0).sample(range(1, 400), 300)] * 2
    kept = KeptVectors(embed, "model", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        kept(texts, "document")
    vectors = kept(texts, "document")
    assert vectors.tolist() == [[len(text), 0] for text in texts]
    assert [len(batch) for batch in asked if batch] == [128, 128, 44]
    file = sorted(tmp_path.iterdir())[0]
    damaged = bytearray(file.read_bytes())
    damaged[40] ^= 1
    file.write_bytes(damaged)
    np.testing.assert_array_equal(kept(texts, "document"), vectors)
    assert len([batch for batch in asked if batch]) == 4
    assert kept(["xx"], "query").tolist() == [[2, 1]]
    assert len(KeptVectors(embed, "other", tmp_path)(["xx"], "query")) == 1
    assert len([batch for batch in asked if batch]) == 6


def settings(**means):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 200)
    kinds = {"plain": (PLAIN, "", "", 0), "own16": ("a", "both", "own", 16), "own512": ("b", "both", "own", 512)}
    kinds["mixture"] = (MIXTURE, "", "", 0)
    kinds["queries"] = ("documents as they are, own context of 40", "queries", "own", 40)
    kinds["bm25"] = (BM25, "", "", 0)
    kinds["foreign"] = ("c", "both", "foreign", 512)
    return [
        Setting(*(kinds[name][0], "m", *kinds[name][1:]), mean + noise + rng.normal(0, 0.01, 200))
        for name, mean in means.items()
    ]


def advised(judged, **means):
    return recommend(settings(**means), judged=judged)


def test_of_judged_settings_the_best_is_recommended_and_of_contexts_alike_the_largest():
    assert advised(True, plain=0.5, own16=0.6001, own512=0.6).size == 512
    assert advised(True, plain=0.5, own16=0.62, own512=0.6).size == 16
    assert advised(True, plain=0.61, own16=0.6, own512=0.6).name == PLAIN
    assert advised(True, plain=0.5, foreign=0.9, own16=0.6).size == 16
    assert advised(True, plain=0.5, bm25=0.9, own16=0.6).name == BM25


def test_made_questions_recommend_the_usual_setting_unless_another_is_far_above_it():
    assert advised(False, plain=0.62, own16=0.625, own512=0.6).size == 512
    assert advised(False, plain=0.5, own16=0.64, own512=0.6).size == 16
    assert advised(False, plain=0.64, own16=0.6, own512=0.6).name == PLAIN
    assert advised(False, plain=0.5, foreign=0.9, own16=0.6).size == 16
    assert advised(False, plain=0.5, bm25=0.9, own16=0.6).size == 16
    assert advised(False, plain=0.5, foreign=0.6).name == PLAIN, "a corpus without contexts of its own"
    other = [replace(one, model="other") for one in settings(plain=0.7, own16=0.8, own512=0.79)]
    assert recommend([*settings(plain=0.5, own512=0.6), *other], judged=False).model == "other"


def test_an_interval_holds_the_mean_and_narrows_with_questions():
    values = np.random.default_rng(0).normal(0.02, 0.1, 400)
    low, high = interval(values)
    assert low < 100 * values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * values.std() / 20, rel=0.1)


def test_a_report_says_what_is_gained_over_a_usual_hybrid_search():
    trial = Trial(("a",), tuple(Question("q", {0: 1.0}, "lead") for _ in range(200)), 1)
    said = make_report(trial, settings(plain=0.5, mixture=0.55, own512=0.6), None).values["recommendation"]
    over_plain, over_mixture = said.split("; ")
    assert over_plain.startswith("Take b with m: +10.")
    assert re.fullmatch(r"\+[45]\.\d nDCG@10 over BM25 \+ plain \(.* to .*\), a usual hybrid search\.", over_mixture)
    chosen = make_report(trial, settings(plain=0.5, mixture=0.6), None).values
    assert chosen["recommendation"].startswith("Take BM25 + plain with m:")
    assert "usual" not in chosen["recommendation"]
    assert chosen["code"].startswith("# your store's hybrid search with 0.4 for BM25 and 0.6 for vectors;")


def test_a_report_says_what_to_do():
    trial = Trial(("a",) * 5, tuple(Question("q", {0: 1.0}, "lead") for _ in range(200)), 50)
    report = make_report(trial, settings(plain=0.5, own512=0.6), None)
    assert report.values["recommendation"].startswith("Take b with m: +10.")
    assert "fit_context(documents, context_size=512)" in report.page
    assert "Questions: 200 lead. Searched: 5 of 50 documents." in report.page
    assert "Among all of them every figure would be lower" in report.page
    assert "A context of the usual size" not in report.page
    large = make_report(replace(trial, seen=9000), settings(plain=0.5, own512=0.6), None).page
    assert "would hold 8192 of these 9000; one vector, which is worth what its context holds, was measured" in large
    copies = make_report(replace(trial, most=6), settings(plain=0.5), None).page
    assert "50 documents.\nThe others are empty or copies." in copies
    full = automatic_trial([" ".join(WORDS)] * 3 + WORDS[:1], documents=2, questions=1)
    assert (len(full.documents), full.seen, full.most) == (2, 4, 2)
    few = make_report(Trial(("a",), trial.questions[:29], 1), settings(plain=0.5, own512=0.6), None)
    assert few.page.startswith("Fewer than 30 questions decide nothing; by these: Take b with m: +10.")
    plain = make_report(trial, settings(plain=0.7, own512=0.6), ["folder"])
    assert plain.values["recommendation"] == "Take m plain: nothing that may be recommended is above it here."
    assert "keep the encoder as it is" in plain.values["code"]
    queries = make_report(trial, settings(plain=0.5, queries=0.6), None).values["code"]
    assert "encoder.fit_context(documents)\n" in queries  # of the usual size, whatever was measured


def test_a_report_names_an_encoder_that_does_not_seem_to_read_the_corpus():
    trial = Trial(("a",) * 5, tuple(Question("q", {0: 1.0}, "lead") for _ in range(200)), 5)
    found = settings(plain=0.5, own16=0.55, own512=0.6)
    small, large = (next(one for one in found if one.size == size) for size in (16, 512))

    def page(of_small: float | None, of_large: float | None) -> str:
        told = {id(small): of_small, id(large): of_large}
        return make_report(trial, [replace(one, agreement=told.get(id(one))) for one in found], None).page

    unread = "Vectors of m hardly agree with words on which documents are near (0.17, where 1 is all and 0 chance"
    assert unread in page(0.6, 0.17)  # the larger context tells
    assert "hardly agree" not in page(0.17, 0.6)
    assert "hardly agree" not in page(None, None)


def test_models_of_one_name_are_told_apart_by_what_they_were_opened_by():
    trial = Trial(("a",), tuple(Question("q", {0: 1.0}, JUDGED) for _ in range(200)), 1)
    found = settings(plain=0.5, own512=0.6), settings(plain=0.5, own512=0.7, bm25=0.1)
    assert {one.model for one in merge(found[:1], ["old"])} == {"m"}
    merged = merge(found, ["old", "new"])
    assert [(one.name, one.model) for one in merged] == [(PLAIN, "old"), ("b", "old"), (PLAIN, "new"), ("b", "new")]
    values = make_report(trial, merged, ["old", "new"]).values
    assert values["recommendation"].startswith("Take b with new: +20.")
    assert "from_pretrained('new')" in values["code"]


def test_orders_agree_where_judgements_are_apart():
    judged = {"plain": 50.0, "mixture": 50.3, "ours": 52.0}
    assert agrees({"plain": 60, "mixture": 59, "ours": 70}, judged)
    assert not agrees({"plain": 60, "mixture": 71, "ours": 70}, judged)


def test_code_that_leaves_documents_as_they_are_runs(headed, tmp_path):
    folder = headed.save_pretrained(tmp_path / "model")
    trial = automatic_trial(pages(40), documents=40, questions=12)
    found = settings(plain=0.5, own512=0.6, queries=0.7)
    values = make_report(replace(trial, questions=(Question("", {0: 1.0}, JUDGED),) * 200), found, [str(folder)]).values
    assert values["recommendation"].startswith("Take documents as they are, own context of 40 with m: +20.1 nDCG@10")
    names = {"documents": pages(40), "questions": ["what"]}
    exec(values["code"], names)
    plain = headed.without_context().encode_documents(pages(40), parts="dense")
    np.testing.assert_allclose(names["vectors"], plain, atol=1e-5)


def test_the_command_reports_and_its_code_runs(headed, tmp_path, capsys):
    folder = headed.save_pretrained(tmp_path / "model")
    rows = [json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(pages(40))]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    shared = ["doctor", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out"), "--model", str(folder)]
    assert main([*shared, "--questions", "12", "--documents", "30"]) == 0
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert values == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (values["documents"], values["seen"], sum(values["questions"].values())) == (30, 40, 12)
    assert values["recommendation"] in said.err
    assert values["recommendation"].split(":")[0] in (tmp_path / "out" / "report.html").read_text()
    names = {"documents": pages(40), "questions": ["what"]}
    exec(values["code"], names)
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"text": pages(40)[3][:20], "relevant": ["d3"]}))
    assert main([*shared, "--queries", str(asked)]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == {"judged": 1}
    asked.write_text(asked.read_text() + "\n" + json.dumps({"text": "what?", "relevant": ["elsewhere"]}))
    assert main([*shared, "--queries", str(asked)]) == 0
    assert "1 of 2 queries are left out, as no document that answers them is in the corpus" in capsys.readouterr().err
    asked.write_text("\n")
    assert main([*shared, "--queries", str(asked)]) == 1
    assert "asked.jsonl holds no queries" in capsys.readouterr().err
    missing = ["doctor", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out"), "--model", str(tmp_path / "none")]
    for file, fault in [(tmp_path / "gone", "No such file or directory"), (tmp_path, "Is a directory")]:
        assert main([*missing, "--queries", str(file)]) == 1  # before a model is looked for
        assert f"{file} cannot be read ({fault}); give a file" in capsys.readouterr().err
    for row in ({"text": "what?"}, {"text": " ", "relevant": ["d3"]}):
        asked.write_text(json.dumps(row))
        assert main([*shared, "--queries", str(asked)]) == 1
        assert "asked.jsonl, line 1" in capsys.readouterr().err
    assert main([*shared, "--questions", "0"]) == 2
