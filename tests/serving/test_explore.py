"""`cde explore`: ways that rank as the index and its rivals do, reasons that add up, pages in a real browser."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from cde_retriever.cli.main import main
from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.context.sampling import hash_text
from cde_retriever.errors import ContextMismatchError
from cde_retriever.lifecycle.kept_vectors import plain_embedding
from cde_retriever.llama_index import CDEEmbedding, CDEVectorStoreIndex
from cde_retriever.search import bm25
from cde_retriever.search.bm25 import score_bm25
from cde_retriever.search.hybrid import score
from cde_retriever.serving.context_topics import ContextTopics
from cde_retriever.serving.exploration import Exploration
from cde_retriever.serving.explored_page import SHOWN, write_page
from cde_retriever.words.corpus_words import CorpusWords
from cde_retriever.words.reading import reader
from tests.serving.conftest import running
from tests.tiny import documents, headed_encoder, tiny_encoder

QUERY = "what about ron baron kolak 7?"
TEXTS = [*documents(40, seed=1), "baron kolak ron sold kolak"]


@pytest.fixture(scope="module")
def encoder(headed_folder):
    from cde_retriever.encoder.encoder import ContextualEncoder

    made = ContextualEncoder.from_pretrained(headed_folder, device="cpu")
    made.fit_context(TEXTS)
    return made


@pytest.fixture(scope="module", params=["both", "one"])
def explored(request, encoder):
    other = encoder.fork()
    return Exploration(TEXTS, encoder, request.param, plain_embedding(encoder), {"another": plain_embedding(other)})


def test_ways_are_those_of_the_index_and_its_rivals(encoder, explored):
    (answer,) = explored.ask([QUERY])
    null = encoder.fork()
    null.set_context(null.null_context())
    for way, under in (("own context", encoder), ("null context", null)):
        asked = under.encode_queries([QUERY], parts=explored.form)
        found = under.encode_documents(TEXTS, parts=explored.form)
        expected = score(asked, found) if explored.form == "both" else asked @ found.T
        np.testing.assert_allclose(answer.scores[way], expected[0], atol=1e-5)
    plain = null.encode_queries([QUERY], parts="dense") @ null.encode_documents(TEXTS, parts="dense").T
    np.testing.assert_allclose(answer.scores["plain"], plain[0], atol=1e-5)
    np.testing.assert_array_equal(answer.scores["another"], answer.scores["plain"])
    rows = null.encode_documents(TEXTS, parts="dense")
    rows -= rows.mean(axis=0)
    variances = np.linalg.svd(rows, compute_uv=False)[:2] ** 2
    np.testing.assert_allclose((explored.places**2).sum(axis=0), variances, rtol=1e-4)
    (words,) = score_bm25(TEXTS, [QUERY])
    assert answer.best("BM25", 50) == [n for n in np.argsort(-words, kind="stable") if words[n] > 0]
    assert list(answer.scores) == ["own context", "null context", "BM25", "BM25 + plain", "plain", "another"]


def test_the_words_of_an_index_are_read_once(explored, monkeypatch):
    read = []
    monkeypatch.setattr(bm25, "with_spaces", lambda text: read.append(text) or text)
    explored.ask([QUERY])
    assert read == [QUERY]


@pytest.mark.parametrize("way", ["own context", "null context"])
def test_reasons_add_up_to_the_score(explored, way):
    number = len(TEXTS) - 1
    (answer,) = explored.ask([QUERY])
    reason = explored.explain(QUERY, number, way)
    assert sum(reason.score.values()) == pytest.approx(answer.scores[way][number], abs=1e-5)
    assert list(reason.score)[:2] == (["meaning", "words"] if explored.form == "both" else ["meaning and words"])
    if explored.form == "both":
        said = sum(word.by_word + word.by_grams for word in reason.words)
        assert said == pytest.approx(reason.score["words"], abs=1e-5)


@pytest.mark.parametrize("way", ["own context", "null context"])
@pytest.mark.parametrize("form", ["both", "one"])
def test_reasons_of_queries_that_are_fitted_add_up_and_no_document_is_moved(form, way):
    fitted = headed_encoder(**HeadSettings().for_queries().to_dict())
    fitted.fit_context(TEXTS, context_size=20)
    explored = Exploration(TEXTS, fitted, form, plain_embedding(fitted))
    (answer,) = explored.ask([QUERY])
    number = len(TEXTS) - 1
    reason = explored.explain(QUERY, number, way)
    assert sum(reason.score.values()) == pytest.approx(answer.scores[way][number], abs=1e-5)
    assert reason.score["meaning"] == pytest.approx(answer.scores["plain"][number], abs=1e-5)
    if form == "one":
        assert list(reason.score) == ["meaning", "fit to the context's words"]
        fit = reason.score["fit to the context's words"]
        assert fit == pytest.approx(0, abs=1e-6) if way == "null context" else abs(fit) > 1e-4
    assert (list(reason.neighbours), list(reason.topics)) == ([], [])


def test_reasons_are_the_contexts(encoder, explored):
    number = len(TEXTS) - 1
    reason = explored.explain(QUERY, number)
    by_name = {word.word: word for word in reason.words}
    holding = sum("baron" in text.split() for text in encoder.context.texts)
    assert by_name["baron"].documents == holding
    assert by_name["baron"].by_word > 0
    assert by_name["7"].by_word == 0
    assert by_name["baron kolak"].documents == 1  # it stands in the last text alone
    assert by_name["baron kolak"].by_word > 0
    shares = [share for _, share in reason.neighbours]
    assert shares == sorted(shares, reverse=True)
    assert {text for text, _ in reason.neighbours} <= set(encoder.context.texts) - {TEXTS[number]}
    assert [share for _, share in reason.topics] == sorted((share for _, share in reason.topics), reverse=True)
    known = {word for text in encoder.context.texts for word in text.split()}
    assert {word for topic, _ in reason.topics for word in topic.split(", ")} <= known
    foreign = explored.explain(QUERY, number, "null context")
    assert "baron kolak" not in {word.word for word in foreign.words}
    assert (list(foreign.topics), list(foreign.neighbours)) == ([], [])
    assert {word.documents for word in foreign.words} == {0}
    moved = encoder.encode_documents([TEXTS[number]], parts="dense")[0]
    nearest = encoder.encode_documents([text for text, _ in reason.neighbours], parts="dense")
    assert (nearest @ moved).min() > 0


def test_topics_are_clusters_named_by_what_sets_them_apart(encoder):
    texts = [f"ron shared sold {n}" for n in range(5)] + [f"baron shared kolak {n}" for n in range(4)]
    vectors = np.zeros((9, 2), np.float32)
    vectors[:5, 0] = vectors[5:, 1] = 1
    counts = CorpusWords.of("none", reader("none").read(texts, "document"))
    context = Context(vectors, encoder.identity, tuple(map(hash_text, texts)), None, words=counts)
    topics = ContextTopics(context, texts[:7])
    shares = topics.shares([(hash_text(text), share) for text, share in ((texts[0], 0.3), (texts[8], 0.5))])
    assert [share for _, share in shares] == [0.5, 0.3]
    assert [set(name.split(", ")[:2]) for name, _ in shares] == [{"baron", "kolak"}, {"ron", "sold"}]
    assert topics.text_of(hash_text(texts[8])) == "(a text that is not in the index)"
    assert ContextTopics(encoder.null_context(), texts).shares([]) == []


def test_another_context_is_one_more_way_and_another_models_is_refused(encoder, tmp_path):
    foreign = encoder.fork().fit_context(documents(30, seed=9))
    found = Exploration(TEXTS, encoder, "both", plain_embedding(encoder), contexts={"foreign": foreign})
    (answer,) = found.ask([QUERY])
    under = encoder.fork()
    under.set_context(foreign)
    expected = score(under.encode_queries([QUERY], parts="both"), under.encode_documents(TEXTS, parts="both"))
    np.testing.assert_allclose(answer.scores["foreign"], expected[0], atol=1e-5)
    page = write_page(found, [answer], leading="foreign").to_html()
    assert f"foreign {foreign.fingerprint[:12]} of 16 documents" in page
    other = tiny_encoder(seed=5).fit_context(TEXTS)
    with pytest.raises(ContextMismatchError):
        Exploration(TEXTS, encoder, "both", plain_embedding(encoder), contexts={"other": other})


def test_the_page_shows_ranks_reasons_and_the_map(explored, opened, tmp_path):
    answers = explored.ask([QUERY, "", "</script><b>ron"])
    file = write_page(explored, answers, note="A note.").save(tmp_path / "explore.html")
    found = opened.go(file)
    assert found.errors == []
    assert found.only_asked_for(file)
    page = found.page
    assert page.get_by_text("A note.").is_visible()
    best = TEXTS[answers[0].best("own context", 1)[0]]
    page.get_by_text(f"Why is this number 1: {best}"[:60]).first.click()
    assert page.get_by_text("Moved towards topics of the context").first.is_visible()
    table = page.get_by_role("table", name="Ranks of the 5 best documents of each way").first
    assert [cell.inner_text() for cell in table.locator("thead th").all()][:3] == [
        "document",
        "own context",
        "null context",
    ]
    ranks = [row.locator("td").nth(1).inner_text() for row in table.locator("tbody tr").all()]
    assert ranks[:5] == ["1", "2", "3", "4", "5"]
    assert all(rank == "-" or int(rank) <= SHOWN for rank in ranks)
    assert page.locator(".plot").count() == 6
    found.screenshot(f"explore-{explored.form}")


def test_an_index_of_one_text_is_explored(encoder):
    alone = Exploration(TEXTS[:1], encoder, "both", plain_embedding(encoder))
    (answer,) = alone.ask(["ron"])
    assert answer.best("own context", 5) == [0]
    assert "Rank" in write_page(alone, [answer]).to_html()


def test_the_command_writes_a_page_or_serves_one(headed_folder, opened, tmp_path, capsys, monkeypatch):
    from llama_index.core import Document

    embedding = CDEEmbedding(str(headed_folder), device="cpu")
    index = CDEVectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embedding)
    index.persist(tmp_path / "index")
    shared = [str(tmp_path / "index"), "--model", str(headed_folder), "--device", "cpu"]
    assert main(["explore", *shared, "--query", QUERY, "--documents", "30"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"page": str(tmp_path / "index.explore" / "explore.html"), "texts": 30}
    assert "They are drawn from 41" in (tmp_path / "index.explore" / "explore.html").read_text()
    assert main(["explore", *shared, "--documents", "0"]) == 2
    embedding.context.save(tmp_path / "kept.safetensors")
    assert main(["explore", str(tmp_path), "--query", "x"]) == 2
    with running("explore", *shared, "--port", "0", "--context", tmp_path / "kept.safetensors") as served:
        found = opened.go(served["url"] + "/")
        found.page.get_by_label("Query").fill(QUERY)
        found.page.get_by_role("button", name="Search").click()
        found.page.wait_for_selector(".js-plotly-plot svg")
        assert found.errors == []
        assert found.page.get_by_role("textbox", name="Query").input_value() == QUERY
        ranks = found.page.get_by_role("table", name="Ranks of the 5 best documents of each way")
        assert ranks.locator("thead th").nth(1).inner_text() == "own context"
        assert len(found.page.get_by_label("Context", exact=True).locator("option").all()) == 3
        found.page.get_by_label("Context", exact=True).select_option("null context")  # asks again at once
        found.page.wait_for_url("**context=null+context")
        found.page.wait_for_selector(".js-plotly-plot svg")
        assert ranks.locator("thead th").nth(1).inner_text() == "null context"
        assert found.page.get_by_label("Context", exact=True).input_value() == "null context"
        found.go(served["url"] + "/?q=ron&context=gone")
        assert found.page.get_by_label("Context", exact=True).input_value() == "own context"
        assert found.errors == []
        foreign = urllib.request.Request(served["url"], headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(foreign, timeout=30)
        assert {url.split("?")[0] for url in found.requests} == {served["url"] + "/", served["url"] + "/plotly.js"}
