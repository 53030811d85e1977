"""What training data are read from, and what becomes of bad rows."""

import json

import pytest

from cde_retriever.corpus.passages import split
from cde_train.data.readers import read_data, read_pairs
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


@pytest.mark.parametrize("line", ["{", "3", '{"query": "q"}', '{"query": "q", "document": "d", "negatives": "n"}'])
def test_a_malformed_line_is_named(tmp_path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n" + line)
    with pytest.raises(TrainingDataError, match=r"bad\.jsonl, line 2: not a pair"):
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
    found = read_data(tmp_path)
    assert found.kind == "documents"
    assert found.documents == [
        "Title\n\nText of it.\n\n```\n# no heading\n```",
        "Other\n\nMore text.",
        "A page\n\nWords & more",
    ]
    with pytest.raises(TrainingDataError, match="without queries"):
        read_pairs(tmp_path)


def test_a_long_section_is_split_between_paragraphs() -> None:
    assert split("# H\n\na b c\n\nd e f\n\ng", words=4) == ["H\n\na b c", "H\n\nd e f\n\ng"]
