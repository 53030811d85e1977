"""`cde-train analyse`: figures are those of an encoder under each context, one at a time."""

import json

import numpy as np
import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.bm25 import WordSearch
from cde_train.cli import main
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.evaluation.baselines import rank_mixture
from cde_train.evaluation.ranking import evaluate, measure
from cde_train.report.analysis import analyse, word_distances, write_analysis_page
from tests.tiny import HEADED, documents, tiny_checkpoint


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A checkpoint, and a folder of two judged corpora."""
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("first", "second")):
        place, texts = folder / "sets" / name, documents(60, seed=seed)
        place.mkdir(parents=True)
        for file, rows in (("corpus", texts), ("queries", [text.split(maxsplit=1)[1] for text in texts[:20]])):
            lines = [json.dumps({"_id": str(i), "title": "", "text": text}) for i, text in enumerate(rows)]
            (place / f"{file}.jsonl").write_text("\n".join(lines))
        (place / "qrels.tsv").write_text("".join(f"{i} 0 {i} 1\n" for i in range(20)))
    return tiny_checkpoint(folder / "tiny", context_size=32, **HEADED), folder / "sets"


def test_each_cell_is_that_context_on_that_corpus(places):
    encoder = ContextualEncoder.from_pretrained(places[0], device="cpu")
    sets = [read_retrieval_set(places[1] / name) for name in ("first", "second")]
    found = analyse(encoder, sets)
    assert not encoder.has_context
    assert (found.names, found.sizes) == (["first", "second"], [16, 32])

    def alone(data):
        return (
            100
            * evaluate(
                data, encoder.encode_queries(data.queries), encoder.encode_documents(data.documents)
            ).ndcg_at_10.mean()
        )

    for row, source in enumerate([*sets, None]):
        encoder.set_context(encoder.null_context()) if source is None else encoder.fit_context(source.documents)
        np.testing.assert_allclose(found.by_context[row], [alone(data) for data in sets], atol=0.5)
    for row, size in enumerate(found.sizes):
        encoder.fit_context(sets[1].documents, context_size=size)
        assert found.by_size[row, 1] == pytest.approx(alone(sets[1]), abs=0.5)
    assert np.ptp(found.by_context) > 1
    assert [values.mean() for values in found.by_query] == pytest.approx(np.diag(found.by_context).tolist())
    plain = [
        (encoder.encode_first_stage(d.queries, role="query"), encoder.encode_first_stage(d.documents)) for d in sets
    ]
    ranked = [rank_mixture(WordSearch(d.documents), d.queries, vectors) for d, vectors in zip(sets, plain, strict=True)]
    expected = [100 * measure(d, row).ndcg_at_10.mean() for d, row in zip(sets, ranked, strict=True)]
    assert found.mixture.tolist() == pytest.approx(expected)
    encoder.set_context(encoder.null_context())
    for data, difficulty in zip(sets, found.difficulty, strict=True):
        cosines = encoder.encode_queries(data.queries) @ encoder.encode_documents(data.documents).T
        for number, row in enumerate(cosines):  # document i answers query i
            others = sorted(np.delete(row, number))[-10:]
            assert difficulty[number] == pytest.approx(np.mean(others), abs=1e-5)


def test_distance_of_words_is_by_shares_of_documents(places):
    first, second = (read_retrieval_set(places[1] / name) for name in ("first", "second"))
    distances = word_distances([first, second, first])
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-12)
    assert distances[0, 2] == pytest.approx(0, abs=1e-12)
    shares = []
    for data in (first, second):
        words = [set(text.lower().split()) for text in data.documents]
        shares.append({word: sum(word in one for one in words) / 60 for one in words for word in one})
    product = sum(share * shares[1].get(word, 0) for word, share in shares[0].items())
    lengths = [sum(share**2 for share in row.values()) ** 0.5 for row in shares]
    assert distances[0, 1] == pytest.approx(1 - product / lengths[0] / lengths[1])


def test_the_command_writes_page_and_tables(places, opened, tmp_path, capsys):
    checkpoint, sets = places
    assert main(["analyse", str(checkpoint), str(sets), "--device", "cpu", "-o", str(tmp_path / "seen")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["corpora"] == ["first", "second"]
    found = opened.go(tmp_path / "seen" / "analysis.html")
    assert found.errors == []
    found.screenshot("analysis")
    assert found.page.locator(".plot").count() == len(list((tmp_path / "seen").glob("*.csv"))) == 4
    (file,) = (tmp_path / "seen").glob("*difficulty*.csv")
    fifths = [line.split(",") for line in file.read_text().splitlines()[1:]]
    for name, own in zip(said["corpora"], said["own"], strict=True):  # 20 queries, so fifths of four
        assert np.mean([float(y) for corpus, _, y in fifths if corpus == name]) == pytest.approx(own)
        xs = [float(x) for corpus, x, _ in fifths if corpus == name]
        assert (len(xs), xs) == (5, sorted(xs))
    above = np.subtract(said["own"], said["mixture"]).mean()
    hybrid = "BM25 0.4 + plain backbone 0.6"
    assert f"against {hybrid}, a usual hybrid search: {above:+.1f} nDCG@10" in found.page.inner_text("main")
    (heat,) = (tmp_path / "seen").glob("*each-context*.csv")
    *_, last = (line.split(",") for line in heat.read_text().splitlines())
    assert (last[0], [float(value) for value in last[1:]]) == (hybrid, pytest.approx(said["mixture"]))
    gain = np.subtract(said["own"], said["null"])
    assert f"{gain.mean():+.1f} nDCG@10 on average of 2 corpora" in found.page.inner_text("main")


def test_one_corpus_is_enough(places):
    encoder = ContextualEncoder.from_pretrained(places[0], device="cpu")
    found = analyse(encoder, [read_retrieval_set(places[1] / "first")])
    page = write_analysis_page("tiny", found).to_html("x.js")
    assert " nDCG@10 on first.</p>" in page
    assert "Gain by distance" not in page
