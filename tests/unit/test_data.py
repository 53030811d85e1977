"""What training data are read from, and what becomes of bad rows."""

import json

import pytest

from cde_train.data.pairs import TrainingPair, write_pairs
from cde_train.data.readers import read_data, read_pairs
from cde_train.data.retrieval_sets import read_retrieval_set
from cde_train.errors import TrainingDataError


def write(file, rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


GOOD = {"query": "q", "document": "d", "negatives": ["n", "D ", ""]}


def test_unusable_rows_are_counted_by_reason(tmp_path) -> None:
    bad = [
        {"query": " ", "document": "d"},
        {"query": "q", "document": ""},
        {"query": "Same  text", "document": "same text"},
    ]
    write(tmp_path / "a.jsonl", [GOOD, GOOD, *bad])
    found = read_data(tmp_path / "a.jsonl")
    assert [(p.query, p.document, p.domain, p.negatives) for p in found.pairs] == [("q", "d", "a", ("n",))]
    assert found.skipped == {
        "negative empty or equal to document": 2,
        "duplicate pair": 1,
        "empty query": 1,
        "empty document": 1,
        "query equal to document": 1,
    }
    with pytest.warns(UserWarning, match="1 \\(duplicate pair\\)"):
        read_pairs(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl", bad)
    with pytest.raises(TrainingDataError, match=r"nothing to train on.*empty query"):
        read_data(tmp_path / "b.jsonl")


@pytest.mark.parametrize("line", ["{", "3", '{"query": "q"}', '{"query": "q", "document": "d", "negatives": [3]}'])
def test_a_malformed_line_is_named(tmp_path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n" + line)
    with pytest.raises(TrainingDataError, match=r"bad\.jsonl, line 2(: not a pair| is)"):
        read_data(tmp_path)


def test_datasets_on_disk(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"anchor": ["q"], "positive": ["d"], "negative_1": ["n"], "negative_2": ["m"]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "good")
    (pair,) = read_data(tmp_path / "good").pairs
    assert (pair.query, pair.document, pair.negatives, pair.domain) == ("q", "d", ("n", "m"), "good")
    datasets.Dataset.from_dict({"x": ["q"], "positive": ["d"]}).save_to_disk(tmp_path / "bad")
    with pytest.raises(TrainingDataError, match=r"columns \['x', 'positive'\]"):
        read_data(tmp_path / "bad")


def test_files_of_columns(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    (tmp_path / "some.csv").write_text('question,answer,negative,source\n7,"d, and\n\nmore",n,wiki\n,d,,\n')
    found = read_data(tmp_path / "some.csv")
    assert found.pairs == [TrainingPair("7", "d, and\n\nmore", "some", ("n",))]
    assert found.skipped == {"empty query": 1}
    (tmp_path / "some.tsv").write_text("anchor\tpositive\tdomain\nq, r\td\tx\n")
    assert read_data(tmp_path / "some.tsv").pairs == [TrainingPair("q, r", "d", "x")]
    book = "a b" * 1_000_000
    (tmp_path / "long.csv").write_bytes(f"\ufeffquery,document\n1.0,{book}\n\n".encode())
    assert read_data(tmp_path / "long.csv").pairs == [TrainingPair("1.0", book, "long")]
    write_table(pyarrow.table({"query": ["q"], "passage": ["d"], "negatives": [["n", "m"]]}), tmp_path / "some.parquet")
    assert read_data(tmp_path / "some.parquet").pairs == [TrainingPair("q", "d", "some", ("n", "m"))]
    for name, content, match in (
        ("latin.csv", "query,document\ncafé,d\n".encode("latin-1"), r"latin\.csv, line 2 is not UTF-8"),
        ("ragged.csv", b"query,document\nq,d\nq,d,e\n", r"ragged\.csv, line 3 has 3 values for 2 columns"),
        ("broken.parquet", b"PAR1", r"broken\.parquet cannot be read"),
        ("other.csv", b"query;document\nq;d\n", r"other\.csv has ';' between its columns"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrainingDataError, match=match):
            read_data(tmp_path / name)
    (tmp_path / "pairs.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"pairs\.json ends in none of \.jsonl, .*\.csv, .*\.html"):
        read_data(tmp_path / "pairs.json")
    with pytest.raises(FileNotFoundError, match="the training data have no name; give a file or folder"):
        read_data("")
    with pytest.raises(FileNotFoundError, match=r"has no file that ends in \.jsonl.*; of \.csv, .* name one file"):
        read_data(tmp_path)


def test_jsonl_may_have_the_columns_of_datasets(tmp_path) -> None:
    write(tmp_path / "a.jsonl", [{"anchor": "q", "positive": "d", "negative_1": "n", "negative_2": "m"}])
    assert read_data(tmp_path / "a.jsonl").pairs == [TrainingPair("q", "d", "a", ("n", "m"))]


def test_a_source_that_is_a_name_holds_no_pairs_together(tmp_path) -> None:
    kept = TrainingPair("q", "the rest", "a", source="q, of the rest")
    write(
        tmp_path / "a.jsonl", [{"query": "q", "document": "a text", "source": source} for source in ("wiki", {"id": 3})]
    )
    write_pairs([kept], tmp_path / "b.jsonl")
    assert [pair.source for pair in read_data(tmp_path).pairs] == ["", kept.source]


def test_beir_train_split(tmp_path) -> None:
    write(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "one"}, {"_id": "2", "text": "two"}])
    write(tmp_path / "queries.jsonl", [{"_id": "a", "text": "which"}])
    with pytest.raises(TrainingDataError, match="no train split"):
        read_data(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\na\t2\t1\n")
    found = read_data(tmp_path)
    assert [(p.query, p.document) for p in found.pairs] == [("which", "two")]
    assert found.documents == ["one", "two"]


def test_text_files_become_passages(tmp_path) -> None:
    (tmp_path / "a.md").write_text("# Title\n\nText of it.\n\n```\n# no heading\n```\n")
    (tmp_path / "b.rst").write_text("Other\n=====\n\nMore text.\n")
    (tmp_path / "c.html").write_text(
        "<head><title>x</title></head><h1>A <b>page</b></h1><script>no</script><p>Words &amp; more</p>"
    )
    (tmp_path / "d.txt").write_text(" \n")
    found = read_data(tmp_path)
    assert found.kind == "documents"
    assert found.documents == [
        "Title\n\nText of it.\n\n```\n# no heading\n```",
        "Other\n\nMore text.",
        "A page\n\nWords & more",
    ]
    assert found.skipped == {"file without text: d.txt (it has no text)": 1}
    with pytest.raises(TrainingDataError, match="without queries"):
        read_pairs(tmp_path, print)


def test_good_jsonl_of_other_programs_is_read(tmp_path) -> None:
    """A byte-order mark, blank lines, a hidden copy as macOS leaves, an ending in capitals."""
    (tmp_path / "a.JSONL").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\n \n")
    (tmp_path / "._a.jsonl").write_bytes(b"\x00\x05\x16\x07")
    assert [(pair.query, pair.document) for pair in read_data(tmp_path).pairs] == [("q", "d")]


def test_wrong_types_in_judged_sets_are_refused(tmp_path) -> None:
    write(tmp_path / "queries.jsonl", [{"_id": "a", "text": "which"}])
    (tmp_path / "qrels.tsv").write_bytes("\ufeffa\t0\t1\t1\n".encode())
    for row, message in (
        ({"_id": "1", "text": 5}, "line 1: text is 5, expected a string"),
        ({"_id": "1", "text": "x", "title": ["t"]}, r"line 1: title is \['t'\], expected a string"),
        ({"_id": None, "text": "x"}, "line 1: the id is None, expected a string or a whole number"),
        ({"_id": "1"}, "line 1: expected id and text"),
    ):
        write(tmp_path / "corpus.jsonl", [row])
        with pytest.raises(ValueError, match=message):
            read_retrieval_set(tmp_path)
    write(tmp_path / "corpus.jsonl", [{"_id": 1, "text": "one"}])
    assert read_retrieval_set(tmp_path).relevant == {"a": {"1": 1}}


def test_a_single_negative_as_a_string_is_one_negative_in_every_form(tmp_path) -> None:
    from datasets import Dataset

    rows = [{"query": f"q{i}", "document": f"text {i}", "negatives": "Open mail."} for i in range(3)]
    write(tmp_path / "a.jsonl", rows)
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    Dataset.from_list([{**row, "negative_1": ["one", "two"]} for row in rows]).save_to_disk(str(tmp_path / "more"))
    for name, expected in (
        ("a.jsonl", ("Open mail.",)),
        ("set", ("Open mail.",)),
        ("more", ("Open mail.", "one", "two")),
    ):
        assert [pair.negatives for pair in read_data(tmp_path / name).pairs] == [expected] * 3


def test_pairs_written_and_read_are_the_same(tmp_path) -> None:
    pairs = [TrainingPair("q", "d", "x", ("n", "m"), "where d came from"), TrainingPair("r", "e", "y")]
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs
