"""A checkpoint beside its baselines: the figures are those of direct computation, and losses are named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cde_retriever.cli.command_line import INTERRUPTED
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.cli import main
from cde_train.data.retrieval_sets import find_retrieval_sets, read_retrieval_set
from cde_train.evaluation import comparison, results
from cde_train.evaluation.comparison import compare
from cde_train.evaluation.kept_results import KeptResults
from cde_train.evaluation.ranking import evaluate, measure
from cde_train.evaluation.results import PLAIN_MODES, Comparison, Result
from cde_train.evaluation.statistics import bootstrap
from cde_train.evaluation.verdicts import advise, verdicts
from tests.tiny import headed_encoder, tiny_encoder
from tests.unit.test_quality import write_sets


@pytest.fixture
def sets(tmp_path):
    return [read_retrieval_set(folder) for folder in find_retrieval_sets(write_sets(tmp_path / "sets"))]


def made(values):
    """Make a comparison from {set: {mode: nDCG of each query}}."""
    rows = [
        Result(name, mode, 0, 9, len(row), *[float(np.mean(row))] * 3, tuple(row))
        for name, modes in values.items()
        for mode, row in modes.items()
    ]
    return Comparison("tiny", "0" * 64, 64, tuple(rows))


def test_figures_equal_direct_computation(encoder, sets):
    start = tiny_encoder(seed=1)
    found = compare(encoder, sets[:2], start=start, against=start)
    data = sets[0]
    embed = encoder.encode_first_stage
    plain = evaluate(data, embed(data.queries, role="query"), embed(data.documents))
    assert found.value("a", "plain") == plain.means()["ndcg_at_10"]
    cases = [(encoder, sets[1].documents, "foreign", 0), (encoder, data.documents, "corpus", 0)]
    for model, source, mode, seed in [*cases, (start, data.documents, "start", 0)]:
        model.fit_context(source, seed=seed)
        quality = evaluate(data, model.encode_queries(data.queries), model.encode_documents(data.documents))
        row = next(r for r in found.results if (r.set, r.mode, r.seed) == ("a", mode, seed))
        assert row.ndcg_per_query == tuple(quality.ndcg_at_10)
        assert row.recall_at_100 == quality.means()["recall_at_100"]
    assert found.modes == ["bm25", "mixture", *PLAIN_MODES, "null", "foreign", "corpus", "start", "against"]


def test_a_checkpoint_with_a_corpus_head_is_judged_in_two_parts(sets, tmp_path, monkeypatch):
    headed_encoder().save_pretrained(tmp_path / "model")
    encoder, start = ContextualEncoder.from_pretrained(tmp_path / "model"), headed_encoder(word_weight=2.0)
    words = [text.split() for text in sets[0].documents]  # of three documents each, so that no ranking is perfect
    mixed = tuple(f"{words[i][0]} {words[i + 1][1]} {words[i + 2][2]}" for i in range(len(sets[0].queries)))
    data = replace(sets[0], queries=mixed)
    ran = []
    embed = encoder.backend.embed

    def counted(ids, mask, state):
        ran.append(len(ids))
        return embed(ids, mask, state)

    monkeypatch.setattr(encoder.backend, "embed", counted)
    found = compare(encoder, [data], start=start)
    assert found.modes == ["bm25", "mixture", *PLAIN_MODES, "null", "corpus", "hybrid", "start", "start_hybrid"]
    assert (found.judged, found.start) == ("hybrid", "start_hybrid")
    once = len(data.documents) + len(data.queries)
    assert sum(ran) == once, "plain vectors, both forms and all contexts are made of one pass"
    for model, mode in [(encoder, "hybrid"), (start, "start_hybrid")]:
        model.fit_context(data.documents, seed=0)
        queries = model.encode_queries(data.queries, parts="both")
        documents = model.encode_documents(data.documents, parts="both")
        scores = queries.dense @ documents.dense.T
        for row, query in enumerate(queries.sparse):  # summed by hand, of what SciPy says of the rows
            asked = dict(zip(query.indices.tolist(), query.data.tolist(), strict=True))
            for column, document in enumerate(documents.sparse):
                held = zip(document.indices.tolist(), document.data.tolist(), strict=True)
                scores[row, column] += sum(asked.get(word, 0.0) * value for word, value in held)
        ranking = list(np.argsort(-scores, axis=1, kind="stable")[:, :101])
        row = next(r for r in found.results if r.mode == mode)
        assert row.ndcg_per_query == tuple(measure(data, ranking).ndcg_at_10)
    assert len({found.value("a", mode) for mode in ("corpus", "hybrid", "start_hybrid")}) == 3
    assert {d.rival for d in found.differences()} == set(found.modes) - {"hybrid"}


def test_a_short_vector_is_judged_as_one_vector_whose_numbers_two_parts_do_not_have(sets):
    """Two such checkpoints, one with other numbers, have the same two parts: these could not tell them apart."""
    short = {"directions": 10, "topics": 4, "sketch": 0, "word_weight": 0.4}
    learned, start = headed_encoder(**short, topic_weight=3.0), headed_encoder(**short, topic_weight=0.1)
    found = compare(learned, sets[:1], start=start)
    assert found.modes == ["bm25", "mixture", *PLAIN_MODES, "null", "corpus", "start"]
    assert (found.judged, found.start) == ("corpus", "start")
    assert "hybrid search, vector and words together" not in advise(found)
    long = compare(headed_encoder(), sets[:1], start=start)
    assert (long.judged, long.start) == ("hybrid", "start_hybrid"), "the start is measured as what came of it is"
    assert compare(tiny_encoder(), sets[:1], start=headed_encoder()).start == "start"


def test_another_checkpoint_with_a_corpus_head_is_measured_as_it_is_used(sets):
    """Under the null context and in one vector it would lose to any that has its corpus's and two parts."""
    other = headed_encoder(word_weight=2.0)
    found = compare(headed_encoder(), sets[:1], start=other, against=other)
    for mode, same in [("against_own", "start"), ("against_hybrid", "start_hybrid")]:
        assert found.value("a", mode) == found.value("a", same)
    assert "against" not in found.modes
    short = headed_encoder(directions=10, topics=4, sketch=0, word_weight=0.4)
    modes = {
        (judged, rival): [mode for mode in compare(encoder, sets[:1], against=with_).modes if "against" in mode]
        for judged, encoder in [("two parts", headed_encoder()), ("short", short), ("no head", tiny_encoder())]
        for rival, with_ in [("two parts", other), ("short", short), ("no head", tiny_encoder(seed=1))]
    }
    assert {rivals for rivals, found in modes.items() if found == ["against_own", "against_hybrid"]} == {
        ("two parts", "two parts")
    }
    assert all(found == ["against"] for (_, rival), found in modes.items() if rival == "no head")
    assert all(found[0] == "against_own" for (_, rival), found in modes.items() if rival != "no head")


def test_two_parts_are_added_to_what_is_kept_of_a_comparison(sets, tmp_path):
    """As after a kill, or of an earlier version, which measured one vector alone."""
    asked, ran = {"of": "this"}, []
    encoder, file = headed_encoder(), tmp_path / "results.json"
    whole = compare(encoder, sets[:2], start=encoder)
    kept = KeptResults(file, asked, ran.append)
    for result in whole.results:
        if result.mode not in ("hybrid", "start_hybrid", "foreign"):
            kept.add(result)
    ran.clear()
    assert compare(encoder, sets[:2], start=encoder, kept=KeptResults(file, asked, ran.append)) == whole
    assert [line.partition(":")[0] for line in ran[1:]] == [
        f"{name} {mode}" for name in ("a", "b") for mode in ("foreign", "hybrid", "start_hybrid")
    ]


def test_plain_vectors_of_queries_have_the_prompt_of_queries(sets):
    said = tiny_encoder(prompts={"query": sets[0].documents[9] + " ", "document": ""})
    unsaid = tiny_encoder(prompts={"query": "", "document": ""})
    data = sets[0]
    vectors = unsaid.encode_first_stage([said.config.prompts["query"] + query for query in data.queries])
    expected = evaluate(data, vectors, unsaid.encode_first_stage(data.documents)).means()["ndcg_at_10"]
    assert compare(said, sets[:1]).value("a", "plain") == expected
    assert compare(unsaid, sets[:1]).value("a", "plain") != expected


def test_the_encoder_keeps_its_context_and_a_lone_set_has_no_foreign_one(encoder, sets):
    encoder.set_context(encoder.null_context())
    before = encoder.context
    assert "foreign" not in compare(encoder, sets[:1]).modes
    assert encoder.context is before


def test_differences_by_hand():
    found = made({"a": {"plain": [0.5, 0.5], "corpus": [0.7, 0.7]}, "b": {"plain": [0.5, 0.5], "corpus": [0.4, 0.4]}})
    (difference,) = found.differences()
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.05, 0.05, 0.05))
    assert difference.loses_on == pytest.approx({"b": -0.1})
    assert "| plain backbone (2 sets) | +5.00 | +5.00 to +5.00 | b -10.0 |" in found.markdown()


def test_differences_are_drawn_once(monkeypatch):
    found, drawn = made({"a": {"plain": [0.5, 0.5], "start": [0.5, 0.6], "corpus": [0.7, 0.7]}}), []
    monkeypatch.setattr(results, "bootstrap", lambda values: drawn.append(values) or bootstrap(values))
    first = found.differences()
    drawn.clear()
    assert found.differences() == first
    advise(found), verdicts(found)
    assert drawn == []
    assert [d.rival for d in found.differences("start")] == ["plain", "corpus"]
    assert found == made({"a": {"plain": [0.5, 0.5], "start": [0.5, 0.6], "corpus": [0.7, 0.7]}})


def test_an_interval_around_zero_is_level():
    level = made({"a": {"plain": [1.0, 0.0] * 50, "corpus": [0.0, 1.0] * 50}})
    assert level.differences()[0].verdict == "level with"
    assert bootstrap([np.tile([-1.0, 1.0], 200)]) == pytest.approx((0, -0.098, 0.098), abs=0.005)


def test_no_sets_and_sets_of_one_name_are_refused(encoder, sets):
    with pytest.raises(ValueError, match=r"received \[\]"):
        compare(encoder, [])
    with pytest.raises(ValueError, match=r"different names, received \['a', 'a'\]"):
        compare(encoder, [sets[0], sets[0]])


def test_rows_are_results_without_their_queries(checkpoint, tmp_path):
    folder = write_sets(tmp_path / "sets")
    sets = [read_retrieval_set(folder / name) for name in ("a", "b")]
    found = compare(ContextualEncoder.from_pretrained(checkpoint, device="cpu"), sets)
    assert found.sets == ["a", "b"]
    rows = [json.loads(json.dumps(row)) for row in found.rows()]
    columns = ("set", "mode", "seed", "documents", "queries", "ndcg_at_10", "recall_at_100", "mrr_at_10")
    whole = json.loads(json.dumps(found.to_dict()))["results"]
    assert rows == [{"model": "tiny-bert"} | {name: result[name] for name in columns} for result in whole]
    assert [row["mode"] for row in rows] == [*found.modes, *found.modes]
    queries = {data.name: len(data.queries) for data in sets}
    assert [len(result["ndcg_per_query"]) for result in whole] == [queries[row["set"]] for row in rows]


def test_an_interrupted_evaluation_measures_only_what_is_missing(checkpoint, tmp_path, monkeypatch, capsys):
    folder, output = write_sets(tmp_path / "sets"), tmp_path / "results.json"
    command = ["evaluate", str(checkpoint), str(folder), "--device", "cpu", "-o", str(output)]
    original, encoded = ContextualEncoder.encode_under, []

    def encode(model, texts, role, contexts, **options):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(role)
        return original(model, texts, role, contexts, **options)

    monkeypatch.setattr(ContextualEncoder, "encode_under", encode)
    assert main(command) == INTERRUPTED
    assert encoded == ["query", "document", "query"]
    kept = json.loads(output.read_text())["results"]
    assert [row["mode"] for row in kept if row["mode"] in ("null", "foreign", "corpus")] == [
        "null",
        "foreign",
        "corpus",
    ]
    assert "corpus: nDCG@10" in capsys.readouterr().err
    monkeypatch.setattr(ContextualEncoder, "encode_under", original)
    assert main(command) == 0
    whole = json.loads(output.read_text())
    assert whole["results"][: len(kept)] == kept
    said = capsys.readouterr().err
    assert "results are in" in said
    rows = tuple(Result(**{**row, "ndcg_per_query": tuple(row["ndcg_per_query"])}) for row in whole["results"])
    assert said.splitlines()[-1] == advise(Comparison("tiny", "0" * 64, 64, rows)), "one sentence on what to do"
    monkeypatch.setattr(ContextualEncoder, "encode_under", None)
    monkeypatch.setattr(comparison, "rank_bm25", None)
    assert main(command) == 0, "nothing is left to measure"
    assert json.loads(output.read_text()) == whole
    monkeypatch.undo()
    tiny_encoder(seed=5).save_pretrained(checkpoint_of := tmp_path / "other")
    assert main([command[0], str(checkpoint_of), *command[2:]]) == 0
    assert "begun anew" in capsys.readouterr().err
    assert json.loads(output.read_text())["sha256"] != whole["sha256"]


def test_an_evaluation_leaves_files_that_are_no_results(checkpoint, tmp_path, capsys):
    folder, precious = write_sets(tmp_path / "sets"), tmp_path / "precious.json"
    for foreign in ('{"asked": {}}', '{"results": []}', "[1]", "no JSON"):
        precious.write_text(foreign)
        assert main(["evaluate", str(checkpoint), str(folder), "--device", "cpu", "-o", str(precious)]) == 2
        assert "precious.json holds no results of an evaluation" in capsys.readouterr().err
        assert precious.read_text() == foreign
