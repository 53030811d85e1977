"""The quality benchmark: each figure is computed once, belongs to what made it, and its table says what it should."""

import json

import numpy as np
import pytest
import torch

from benchmarks import growth, quality, vector_sizes
from benchmarks.head_ranking import HYBRID_MODES, PlainTexts, fit_on_kept, one_vectors, rank_with_head
from benchmarks.quality_table import bootstrap, checkpoints, select, write_table
from benchmarks.recipes.card import card
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.hybrid import score
from cde_train.data.retrieval_sets import read_retrieval_set
from tests.tiny import HEADED, documents, headed_encoder, tiny_encoder


def write_sets(folder):
    """Write three sets of 20 documents; a query is the first words of a document."""
    for seed, name in enumerate(("a", "b", "c")):
        texts = documents(20, seed=seed)
        (folder / name).mkdir(parents=True)
        rows = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
        queries = [json.dumps({"id": str(i), "text": text[:20]}) for i, text in enumerate(texts[:5])]
        (folder / name / "corpus.jsonl").write_text("\n".join(rows))
        (folder / name / "queries.jsonl").write_text("\n".join(queries))
        (folder / name / "qrels.tsv").write_text("\n".join(f"{i} 0 {i} 1" for i in range(5)))
    return folder


@pytest.fixture
def arguments(tmp_path, checkpoint):
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "docs" / "figures" / "quality.json"
    shared = ["--output", str(output), "--cache", str(tmp_path / "cache"), "--dtype", "float32", "--device", "cpu"]
    return [str(checkpoint), str(sets), *shared]


def results(arguments):
    return json.loads((quality.Path(arguments[3])).read_text())["results"]


def test_every_mode_is_measured_and_nothing_twice(arguments, monkeypatch):
    assert quality.main([*arguments, "--context-seeds", "0", "1"]) == 0
    found = results(arguments)
    assert len(found) == 3 * (
        len(quality.MODES) + 1 - len(HYBRID_MODES)
    )  # corpus context has two seeds, and without a head nothing is hybrid
    assert {row["context_of"] for row in found if row["set"] == "c" and row["mode"] == "foreign"} == {"a"}
    monkeypatch.setattr(quality.Bench, "run", None)
    monkeypatch.setattr(ContextualEncoder, "encode_under", None)
    assert quality.main(arguments) == 0  # would fail if anything ran again
    assert results(arguments) == found


def test_plain_results_serve_other_checkpoints_with_the_same_first_stage(arguments, checkpoint, tmp_path):
    quality.main([*arguments, "--modes", "plain", "bm25", "null"])
    other = ContextualEncoder.from_pretrained(checkpoint, device="cpu")
    with torch.no_grad():
        other.open_model().second_stage.null_context.add_(1)
    assert quality.hash_first_stage(other) == results(arguments)[1]["first_stage"]
    other.save_pretrained(tmp_path / "other")
    quality.main([str(tmp_path / "other"), *arguments[1:], "--modes", "plain", "bm25", "null"])
    modes = [row["mode"] for row in results(arguments)]
    assert (modes.count("plain"), modes.count("bm25"), modes.count("null")) == (3, 3, 6)
    assert quality.Path(arguments[3]).with_suffix(".md").read_text().count("| a | 20 | 5 |") == 2


def test_sizes_and_distances_are_measured_and_drawn(tmp_path):
    encoder = tiny_encoder(context_attention="late", term_statistics=True, sketch_width=64)
    folder = encoder.save_pretrained(tmp_path / "model")
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "docs" / "figures" / "quality.json"
    shared = ["--output", str(output), "--cache", str(tmp_path / "cache"), "--dtype", "float32", "--device", "cpu"]
    quality.main(
        [str(folder), str(sets), *shared, "--modes", "plain", "bm25", "null", "corpus", "--context-sizes", "4"]
    )
    found = json.loads(output.read_text())["results"]
    corpus = [row for row in found if row["mode"] == "corpus"]
    assert {(row["size"], row["context_documents"]) for row in corpus} == {(None, 16), (4, 4)}
    assert all(0 < row["distance"] < 1 for row in corpus)
    page = output.with_suffix(".md").read_text()
    assert "| 4 |" in page
    assert "| 16, or all there are |" in page
    assert len(list(output.parent.glob("*.svg"))) == 2
    main_rows = select(found, corpus[0]["model"], "float32")
    assert all(len(row["corpus"]) == 1 for row in main_rows.values()), "other sizes stay out of the main table"
    text = card(output, folder)
    for heading in ("Data and licences", "Figures", "Where it loses", "Limits"):
        assert f"## {heading}" in text
    with pytest.raises(ValueError, match="has figures of"):
        card(output, tiny_encoder(seed=3).save_pretrained(tmp_path / "other"))


def test_a_checkpoint_with_a_corpus_head_is_measured_in_two_parts_too(tmp_path):
    encoder = headed_encoder()
    folder = encoder.save_pretrained(tmp_path / "model")
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "docs" / "figures" / "quality.json"
    shared = ["--output", str(output), "--cache", str(tmp_path / "cache"), "--dtype", "float32", "--device", "cpu"]
    modes = ["plain", "bm25", "null", "foreign", "corpus", *HYBRID_MODES]
    quality.main([str(folder), str(sets), *shared, "--modes", *modes])
    found = {(row["set"], row["mode"]): row for row in json.loads(output.read_text())["results"]}
    assert len(found) == 3 * 8
    # queries are the first words of documents: exact words find them, a random encoder does not
    for name in "abc":
        assert found[name, "hybrid"]["ndcg_at_10"] > 0.9
        assert found[name, "hybrid"]["context_documents"] == 16
    page = output.with_suffix(".md").read_text()
    assert "| corpus context minus |" in page
    assert "| two parts, corpus context minus |" in page


def test_growth_adds_what_was_not_measured_before(tmp_path, monkeypatch):
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "growth.json"
    tiny_encoder(context_attention="late", context_moments=False, corpus_head={}).save_pretrained(tmp_path / "model")
    where = ["--output", str(output), "--cache", str(tmp_path / "cache"), "--dtype", "float32"]
    command = [str(tmp_path / "model"), str(sets), *where, "--factors"]
    assert growth.main([*command, "1"]) == 0
    first = json.loads(output.read_text())["results"]
    shares = {(row["factor"], row["own_in_top_10"] == 1) for row in first if row["row"] == "plain"}
    assert shares == {(0, True), (1, False)}
    measure, measured = growth.summary, []
    monkeypatch.setattr(
        growth, "summary", lambda data, *rest: measured.append(len(data.documents)) or measure(data, *rest)
    )
    assert growth.main([*command, "1", "50", "100"]) == 0
    assert measured == [60] * 3 * len(growth.ROWS)  # all there is, so 100 times is 50 times
    found = json.loads(output.read_text())["results"]
    assert found[: len(first)] == first
    assert len(found) == 2 * len(first)
    assert {row["factor"] for row in found[len(first) :]} == {50, 100}


def test_kept_vectors_rank_as_encoded_ones_do(tmp_path):
    encoder = tiny_encoder(**HEADED, prompts={"query": "w1 w2 ", "document": ""})
    data = read_retrieval_set(write_sets(tmp_path / "sets") / "b")
    documents, queries = (
        encoder.encode_first_stage(texts, role=role)
        for texts, role in ((data.documents, "document"), (data.queries, "query"))
    )
    plain = PlainTexts(data.documents, data.queries, documents, queries)
    context = encoder.fit_context(data.documents, seed=1, context_size=6)
    kept = fit_on_kept(encoder, plain, seed=1, size=6)
    assert kept.fingerprint == context.fingerprint
    one = encoder.encode_queries(data.queries) @ encoder.encode_documents(data.documents).T
    both = (encoder.encode_queries(data.queries, parts="both"), encoder.encode_documents(data.documents, parts="both"))
    for parts, scores in (("one", one), ("both", score(*both))):
        found = rank_with_head(encoder, plain, kept, parts)
        assert [list(row[:5]) for row in found] == np.argsort(-scores, axis=1, kind="stable")[:, :5].tolist()


def test_smaller_vectors_are_those_of_an_encoder_that_makes_them(tmp_path):
    folder = tiny_encoder(**HEADED).save_pretrained(tmp_path / "model")
    sets, output = write_sets(tmp_path / "sets"), tmp_path / "sizes.json"
    data = read_retrieval_set(sets / "a")
    whole = ContextualEncoder.from_pretrained(folder, device="cpu")
    vectors = [whole.encode_first_stage(texts) for texts in (data.documents, data.queries)]
    plain = PlainTexts(data.documents, data.queries, *vectors)
    context = whole.fit_context(data.documents)
    for numbers in (whole.dimension, 16, 5):
        encoder = ContextualEncoder.from_pretrained(folder, device="cpu", truncate_dim=numbers)
        encoder.set_context(context)
        made = one_vectors(whole, plain, context, numbers)
        np.testing.assert_allclose(made[0], encoder.encode_documents(data.documents), atol=1e-5)
        np.testing.assert_allclose(made[1], encoder.encode_queries(data.queries), atol=1e-5)
    shared = ["--checkpoint", str(folder), "--cache", str(tmp_path / "cache"), "--output", str(output)]
    vector_sizes.main([str(sets), "--numbers", str(whole.dimension), "16", *shared])
    rows = json.loads(output.read_text())["rows"]
    found = {(row["numbers"], row["search"]): row["ndcg_at_10"]["a"] for row in rows}
    assert len(found) == 2 * 4 + 1
    assert found["32 + words", "two parts"] > 0.9  # queries are the first words of documents
    assert [row["bytes"]["a"] for row in rows[4:8]] == [64, 16, 2, 2]
    assert len(output.with_suffix(".md").read_text().splitlines()) == 6 + len(rows)


def test_another_first_stage_has_another_hash():
    assert quality.hash_first_stage(tiny_encoder(seed=0)) != quality.hash_first_stage(tiny_encoder(seed=1))
    assert quality.hash_first_stage(tiny_encoder(max_length=32)) != quality.hash_first_stage(tiny_encoder())


def test_an_unknown_set_is_named(arguments):
    with pytest.raises(ValueError, match=r"unknown sets \['z'\]; there are \['a', 'b', 'c'\]"):
        quality.main([*arguments, "--sets", "z"])


def test_two_parts_come_first_and_older_versions_last():
    def of(name, model, mode):
        return {"mode": mode, "model": model, "dtype": "float32", "name": name, "context_of": "a"}

    rows = [of("v0", "c", "corpus"), of("v1", "b", "corpus"), of("v2", "a", "corpus"), of("v2", "a", "hybrid")]
    found = checkpoints([*rows, of("other", "d", "hybrid"), {"mode": "plain", "model": "e", "dtype": "bfloat16"}])
    assert found == [("a", "float32"), ("d", "float32"), ("b", "float32"), ("c", "float32"), (None, "bfloat16")]


def row(name, mode, values, **extra):
    own = {"context_of": "b", "name": "model", "context_documents": 8} if mode in quality.CONTEXT_MODES else {}
    mean = sum(values) / len(values)
    return {
        "set": name, "mode": mode, "model": "own" if own else "first", "dtype": "float32", "seed": None,
        "first_stage": "first", "max_length": 64, "documents": 9, "queries": len(values), "ndcg_at_10": mean,
        "recall_at_100": mean, "mrr_at_10": mean, "ndcg_per_query": values, **own, **extra,
    }  # fmt: skip


def test_the_table_names_where_the_context_loses(tmp_path):
    rows = [
        row("a", "plain", [0.5, 0.5]), row("a", "corpus", [0.6, 0.6], seed=0), row("a", "corpus", [0.8, 0.8], seed=1),
        row("b", "plain", [0.5, 0.5]), row("b", "corpus", [0.4, 0.4], seed=0),
    ]  # fmt: skip
    file = tmp_path / "quality.json"
    file.write_text(json.dumps({"commands": ["the command"], "environment": {"torch": "2"}, "results": rows}))
    text = write_table(file).read_text()
    assert "| a | 9 | 2 | 50.0 | 70.0 |" in text
    assert "| **mean of 2** | | | **50.00** | **55.00** |" in text
    assert "| plain backbone (2 sets) | +5.00 | +5.00 to +5.00 | -10.00 to +20.00 | b -10.0 |" in text
    assert "the command" in text


def test_bootstrap_by_hand():
    assert bootstrap([np.full(4, 2.0), np.full(9, 4.0)]) == pytest.approx((3, 3, 3))
    # one set of n differences of variance 1: the interval is the mean -+ 1.96 / sqrt(n)
    mean, low, high = bootstrap([np.tile([-1.0, 1.0], 200)])
    assert mean == 0
    assert (low, high) == pytest.approx((-0.098, 0.098), abs=0.005)


def test_bootstrap_weighs_sets_equally_not_queries():
    assert bootstrap([np.zeros(1000), np.ones(10)])[0] == pytest.approx(0.5)
