"""Planted leaks are found, near misses are not."""

import json

import numpy as np
import pytest

from cde_retriever.words.pieces import comparable
from cde_train.data.decontamination import Detector, check_pairs, main
from cde_train.data.near_copies import Grams
from cde_train.data.pairs import TrainingPair
from cde_train.data.retrieval_sets import RetrievalSet

ANSWER = " ".join(f"answer{i}" for i in range(30))
OTHER = " ".join(f"other{i}" for i in range(30))
SHORT = "Ships carry five masts"


def evaluation_set(name="judged"):
    documents = (ANSWER, OTHER, SHORT, "Examples")
    return RetrievalSet(name, ("d1", "d2", "d3", "d4"), documents, ("q1",), ("How many masts?",), {"q1": {"d3": 1}})


def fresh(count, start=0):
    return " ".join(f"fresh{i}" for i in range(start, start + count))


def leaks(query, document):
    pair = TrainingPair(query, document, "domain")
    return {(leak.kind, leak.evaluation_id): leak.share for leak in Detector([evaluation_set()]).check(0, pair)}


def test_comparable_words():
    assert comparable("Don't STOP_me, Ωmega-3!") == ["don", "t", "stop", "me", "ωmega", "3"]


def test_grams_are_the_distinct_windows_of_thirteen_words():
    grams = Grams()
    words = comparable(fresh(20))
    assert len(grams(words)) == 8
    assert len(grams(words[:12])) == 0
    assert len(grams(["same"] * 40)) == 1
    np.testing.assert_array_equal(grams(words[:13]), Grams()(words[:13]))
    assert grams(words[:13]) != grams(words[:13][::-1])  # order counts


def test_clean_pairs_pass():
    assert leaks("a question", fresh(50)) == {}


def test_an_evaluation_query_is_found_however_it_is_written():
    assert leaks("how many MASTS", fresh(50)) == {("query", "q1"): 1.0}
    assert leaks("how many masts then", fresh(50)) == {}


def test_an_evaluation_query_used_as_document_is_found():
    assert leaks("title", "How many masts?") == {("query", "q1"): 1.0}


def test_a_short_evaluation_document_is_found_whole_but_a_heading_is_not():
    assert leaks("ships", "ships, carry five masts!") == {("document", "d3"): 1.0}
    assert leaks("Examples", "Examples") == {}


def test_a_copied_document_is_found_both_ways():
    assert leaks("title", ANSWER.upper()) == {("document", "d1"): 1.0, ("overlap", "d1"): 1.0}


def test_overlap_counts_the_share_of_the_training_documents_grams():
    # 30 leaked words give 18 of the 13-grams; a text of n words has n - 12
    assert leaks("t", f"{ANSWER} {fresh(162)}") == {("overlap", "d1"): 0.1}  # 18 of 180
    assert leaks("t", f"{ANSWER} {fresh(163)}") == {}  # 18 of 181
    assert leaks("t", f"{fresh(9)} {ANSWER} {fresh(9, 50)}") == {("overlap", "d1"): 0.5}  # 18 of 36


def test_shares_of_several_evaluation_documents_do_not_add_up():
    assert leaks("t", f"{ANSWER} {fresh(140)} {OTHER}") == {}  # 18 of 188 each, 36 of 188 together


def test_the_report_counts_pairs_and_keeps_examples():
    pairs = [TrainingPair(f"query {i}", ANSWER, "leaky") for i in range(4)]
    pairs += [TrainingPair("clean", fresh(50), "clean")]
    sets = [evaluation_set(), evaluation_set("second")]
    report = check_pairs((pair for pair in pairs), Detector(sets), examples=2)
    assert (report.pairs, report.contaminated, report.clean) == (5, 4, False)
    expected = {"query": 0, "document": 4, "overlap": 4}
    assert report.counts == {"judged": expected, "second": expected}
    assert report.domains == {"leaky": 4}
    assert len(report.examples) == 8  # two of each set and kind
    assert report.examples[0].text == ANSWER[:200]


def write(folder, pairs):
    rows = {
        "eval/judged/corpus.jsonl": [{"id": "d1", "text": ANSWER}],
        "eval/judged/queries.jsonl": [{"id": "q1", "text": "How many masts?"}],
        "pairs/one.jsonl": pairs,
    }
    for name, lines in rows.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "eval/judged/qrels.tsv").write_text("q1 0 d1 1\n")
    return [str(folder / "pairs"), str(folder / "eval")]


@pytest.mark.parametrize(("query", "code"), [("clean", 0), ("how many masts", 1)])
def test_the_command_prints_json_and_says_whether_it_found_anything(tmp_path, capsys, query, code):
    assert main(write(tmp_path, [{"query": query, "document": fresh(50), "domain": "d"}])) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["pairs"] == 1
    assert printed["counts"]["judged"]["query"] == code


def test_a_missing_pairs_file_is_an_error(tmp_path):
    arguments = write(tmp_path, [])
    with pytest.raises(FileNotFoundError):
        main([str(tmp_path / "nothing.jsonl"), arguments[1]])
