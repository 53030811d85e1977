"""A corpus as files: the same documents from every format, any rows of it, and bad rows named."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from cde_retriever.corpus.rows import (
    Columns,
    Corpus,
    CorpusFile,
    Document,
    find_files,
    read_documents,
)
from cde_retriever.errors import ConfigError, CorpusError
from cde_retriever.files.hashing import hash_file
from tests.permissions import refuse

ROWS = [{"id": f"d{i}", "title": f"Title {i}" if i % 3 else "", "text": f"text {i} größer"} for i in range(23)]
DOCUMENTS = [Document(row["id"], f"{row['title']} {row['text']}" if row["title"] else row["text"]) for row in ROWS]


def write_jsonl(file, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(lines) if file.suffix == ".gz" else lines)
    return file


def write_parquet(file, rows, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def write(file, rows):
    if file.suffix in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8-sig", newline="") as stream:
            lines = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            lines.writeheader()
            lines.writerows(rows)
        return file
    return write_parquet(file, rows, row_group_size=5) if file.suffix == ".parquet" else write_jsonl(file, rows)


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.parquet", "c.csv", "c.tsv"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    file = write(tmp_path / name, ROWS)
    assert find_files(file) == (tmp_path, [name], {})
    assert list(read_documents(file.parent, file.name, Columns())) == DOCUMENTS


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.parquet", "c.csv", "c.tsv"])
@pytest.mark.parametrize("intervals", [[(0, 1)], [(4, 11)], [(3, 5), (5, 6), (20, 23)], [(5, 10), (10, 15)]])
def test_some_rows(tmp_path, name, intervals):
    file = write(tmp_path / name, ROWS)
    expected = [document for start, stop in intervals for document in DOCUMENTS[start:stop]]
    assert list(read_documents(file.parent, file.name, Columns(), intervals)) == expected


def counted(folder, columns=None):
    columns = columns or Columns()
    root, names, _ = find_files(folder)
    rows = [sum(1 for _ in read_documents(root, name, columns)) for name in names]
    files = (CorpusFile(name, hash_file(root / name), n) for name, n in zip(names, rows, strict=True))
    return Corpus(root, tuple(files), columns)


def mixed_folder(folder):
    """Write the rows as three files, one of them empty, among files that are none of ours."""
    (folder / "b" / ".hidden").mkdir(parents=True)
    write(folder / "a.jsonl.gz", ROWS[:9])
    write_jsonl(folder / "b" / "0.jsonl", [])
    write(folder / "b" / "1.parquet", ROWS[9:])
    write(folder / "b" / ".hidden" / "x.jsonl", ROWS)
    (folder / "README.md").write_text("not a corpus")
    return folder


def test_rows_are_numbered_through_all_files_of_a_folder(tmp_path):
    corpus = counted(mixed_folder(tmp_path / "corpus"))
    assert [file.name for file in corpus.files] == ["a.jsonl.gz", "b/0.jsonl", "b/1.parquet"]
    assert corpus.rows == 23
    assert corpus.starts() == [0, 9, 9]
    assert list(corpus.read([(7, 12), (20, 22)])) == [*DOCUMENTS[7:12], *DOCUMENTS[20:22]]
    assert list(corpus.read([(0, 23)])) == DOCUMENTS


def test_a_file_that_lost_rows_is_noticed(tmp_path):
    corpus = counted(mixed_folder(tmp_path / "corpus"))
    shutil.copy(write_jsonl(tmp_path / "short.jsonl.gz", ROWS[:4]), tmp_path / "corpus" / "a.jsonl.gz")
    with pytest.raises(CorpusError, match=r"a.jsonl.gz has fewer rows than before"):
        list(corpus.read([(2, 9)]))


def test_columns_may_have_other_names(tmp_path):
    rows = [{"_id": i, "headline": "A", "title": "B", "body": "text"} for i in range(2)]
    for name in ("c.jsonl", "c.parquet"):
        file = write(tmp_path / name, rows)
        columns = Columns(text="body", id="_id", title="headline")
        assert list(read_documents(file.parent, file.name, columns)) == [
            Document("0", "A text"),
            Document("1", "A text"),
        ]
        assert next(read_documents(file.parent, file.name, Columns("body", "_id", ""))).text == "text"
        assert next(read_documents(file.parent, file.name, Columns("body", "_id"))).text == "B text"


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="body"), "has no column 'body', it has id, title, text; name the right one: --text-column"),
        (Columns(id="_id"), "has no column '_id', it has id, title, text; name the right one: --id-column"),
        (Columns(title="titel"), "has no column 'titel', it has id, title, text; name the right one: --title-column"),
    ],
)
def test_a_missing_column_is_named_beside_those_there(tmp_path, name, columns, message):
    with pytest.raises(CorpusError, match=f"{name}.*{message}"):
        next(read_documents(write(tmp_path / name, ROWS).parent, name, columns))


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
def test_a_missing_title_and_a_null_text_are_empty(tmp_path, name):
    rows = [{"id": "a", "text": None}, {"id": "b", "text": ""}, {"id": "c", "text": "x"}]
    assert [document.text for document in read_documents(write(tmp_path / name, rows).parent, name, Columns())] == [
        "",
        "",
        "x",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a", "text": "cut of', r"c.jsonl, line 3 is not JSON \(Unterminated string"),
        (b'{"id": "a", "text": "\xff"}', r"c.jsonl, line 3 is not JSON \('utf-8' codec can't decode"),
        (b'{"id": "a", "text": ' + b"[" * 100_000, "c.jsonl, line 3 is nested too deep to be read"),
        (b'{"id": "a", "text": ' + b"1" * 5000 + b"}", "c.jsonl, line 3 is not JSON .Exceeds the limit"),
        (b'["a", "text"]', "c.jsonl, line 3 is list, expected a JSON object"),
        (b'{"id": "a"}', "c.jsonl, line 3 has no column 'text', it has id; name the right one: --text-column"),
        (b'{"id": "a", "text": ["x"]}', r"c.jsonl, line 3: 'text' is list, expected a string: \['x'\]; name"),
        (
            b'{"id": "a", "text": "x", "title": 7}',
            "'title' is int, expected a string: 7; .*--title.*or none",
        ),
        (b'{"id": null, "text": "x"}', "c.jsonl, line 3: 'id' is None, expected a string or a whole number"),
        (b'{"id": 1.5, "text": "x"}', "c.jsonl, line 3: 'id' is 1.5, expected a string or a whole number"),
        (b'{"id": "a", "text": "\\ud800"}', "c.jsonl, line 3: .* is not valid Unicode"),
        (b'{"id": "\\ud800", "text": "x"}', "c.jsonl, line 3: .* is not valid Unicode"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, message):
    (tmp_path / "c.jsonl").write_bytes(b'{"id": 1, "text": "x"}\n\n' + line + b"\n")
    with pytest.raises(CorpusError, match=message):
        list(read_documents(tmp_path, "c.jsonl", Columns()))


def test_a_bad_row_is_named_by_file_and_row(tmp_path):
    schema = pyarrow.schema({"id": pyarrow.string(), "text": pyarrow.string()})
    rows = [{"id": "a", "text": "x"}, {"id": None, "text": "x"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), tmp_path / "c.parquet")
    with pytest.raises(CorpusError, match=r"c.parquet, row 2: 'id' is None"):
        list(read_documents(tmp_path, "c.parquet", Columns()))


def test_a_title_that_is_the_text_is_not_put_before_itself(tmp_path):
    for name in ("c.jsonl", "c.parquet"):
        write(tmp_path / name, [{"id": 1, "title": "Red bicycle"}])
        assert list(read_documents(tmp_path, name, Columns(text="title"))) == [Document("1", "Red bicycle")]
    with pytest.raises(ConfigError, match=r"--title-column and --text-column are both 'body'"):
        Columns(text="body", title="body")


def test_marks_blank_lines_and_endings_in_capitals_are_read(tmp_path):
    (tmp_path / "A.JSONL").write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(ROWS[0]).encode() + b"\r\n\n  \n")
    (tmp_path / "._A.jsonl").write_bytes(b"\x00\x05\x16\x07")  # as macOS leaves on other drives
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    root, names, others = find_files(tmp_path)
    assert (names, others) == (["A.JSONL"], {})
    assert list(read_documents(root, names[0], Columns())) == DOCUMENTS[:1]
    write_jsonl(tmp_path / "N.ndjson", ROWS[:1])
    assert find_files(tmp_path).names == ["A.JSONL", "N.ndjson"]
    assert list(read_documents(root, "N.ndjson", Columns())) == DOCUMENTS[:1]
    write_jsonl(tmp_path / "B.jsonl.GZ", []).write_bytes(gzip.compress(json.dumps(ROWS[1]).encode()))
    assert list(read_documents(root, "B.jsonl.GZ", Columns())) == DOCUMENTS[1:2]
    (tmp_path / "w.jsonl").write_bytes(json.dumps(ROWS[0]).encode("utf-16"))
    with pytest.raises(CorpusError, match=r"w.jsonl is UTF-16, expected UTF-8; convert it"):
        list(read_documents(root, "w.jsonl", Columns()))


def test_what_is_hidden_above_the_folder_does_not_matter_and_a_named_file_is_taken(tmp_path):
    folder = tmp_path / ".cache" / "docs"
    (folder / ".venv").mkdir(parents=True)
    write(folder / "a.jsonl", ROWS[:1])
    write(folder / ".venv" / "b.jsonl", ROWS[:1])
    write(folder / ".c.jsonl", ROWS[:1])
    assert find_files(folder).names == ["a.jsonl"]
    assert find_files(folder / ".c.jsonl").names == [".c.jsonl"]


@pytest.mark.parametrize("name", ["c.jsonl.gz", "c.parquet"])
def test_a_file_cut_short_is_named(tmp_path, name):
    file = write(tmp_path / name, ROWS)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=f"{name} cannot be read .* is it whole"):
        list(read_documents(file.parent, file.name, Columns()))


@pytest.mark.parametrize(
    ("queries", "corpus", "named"),
    [
        ("queries.jsonl", "corpus.jsonl", "queries.jsonl"),
        ("queries.jsonl", "corpus.jsonl.gz", "queries.jsonl"),
        ("queries.parquet", "corpus.parquet", "queries.parquet"),
        ("queries/part-0.parquet", "corpus/part-0.parquet", "queries"),
        ("queries-00000-of-00001.parquet", "corpus-00000-of-00001.parquet", "queries-00000-of-00001.parquet"),
        ("queries.csv", "corpus.csv", "queries.csv"),
    ],
)
def test_queries_beside_a_corpus_are_no_documents(tmp_path, queries, corpus, named):
    place = tmp_path / "scifact"
    (place / queries).parent.mkdir(parents=True)
    write(place / queries, [{"_id": "q", "text": "which?"}])
    assert find_files(tmp_path).names == [f"scifact/{queries}"]  # no set of judged queries
    (place / corpus).parent.mkdir(exist_ok=True)
    write(place / corpus, [{"_id": "d", "text": "this"}])
    alone = Path(corpus).parts[0]
    for folder in (tmp_path, place):
        with pytest.raises(CorpusError, match=rf"/{named} holds queries.*alone: .*/scifact/{alone}$"):
            find_files(folder)
    assert find_files(place / alone).names == [Path(corpus).name]
    for document in ("queries.md", "corpus.md"):
        (tmp_path / "pages").mkdir(exist_ok=True)
        (tmp_path / "pages" / document).write_text("baron")
    assert find_files(tmp_path / "pages").names == ["corpus.md", "queries.md"]


def test_what_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_files(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="the corpus has no name"):
        find_files("")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(FileNotFoundError, match=r"pipe.jsonl is neither file nor folder, and a corpus is read twice"):
        find_files(tmp_path / "pipe.jsonl")
    (tmp_path / "c.xml").write_text("<text/>")
    for path, said in ((tmp_path, "has no file that ends in"), (tmp_path / "c.xml", "c.xml ends in none of")):
        with pytest.raises(
            CorpusError, match=rf"{said} .jsonl, .jsonl.gz, .ndjson, .ndjson.gz, .parquet, .html.*, .csv, .tsv;"
        ):
            find_files(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of text alone")
def test_a_file_whose_name_is_no_text_is_named(tmp_path):
    (tmp_path / "a.md").write_text("baron")
    (tmp_path / os.fsdecode(b"\xff.PDF")).write_text("not read")
    assert find_files(tmp_path).names == ["a.md"]
    file = tmp_path / os.fsdecode(b"\xff.md")
    file.write_text("baron")
    for path in (tmp_path, file):
        with pytest.raises(CorpusError, match=r"the name of the file '\\udcff.md' is not UTF-8; rename it"):
            find_files(path)


def test_quoted_values_of_a_table_may_hold_anything(tmp_path):
    texts = ['a "quoted" text, with\ta tab,\r\nand lines\n\n', "x" * 200_000, ""]
    file = write(tmp_path / "c.csv", [{"id": i, "text": text} for i, text in enumerate(texts)])
    assert [document.text for document in read_documents(tmp_path, "c.csv", Columns())] == texts
    file.write_text(file.read_text("utf-8-sig").replace("\n1,", "\n\n1,"))  # an empty line is no row
    assert list(read_documents(tmp_path, "c.csv", Columns(), [(1, 2)])) == [Document("1", texts[1])]
    write(tmp_path / "README.md", [])
    assert find_files(tmp_path).names == ["README.md"], "tables in a folder of documents are no corpus"


def test_reading_rows_leaves_the_limit_of_csv_to_who_set_a_higher_one(tmp_path, monkeypatch):
    code = "import csv, cde_retriever.corpus.rows; print(csv.field_size_limit())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "131072", "an import changes it"
    limit = csv.field_size_limit(2**40)
    try:
        list(read_documents(tmp_path, write(tmp_path / "c.csv", ROWS).name, Columns()))
        assert csv.field_size_limit() == 2**40
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id,text\n1,a\n2,b,c\n", r"c\.csv, line 3 has 3 values for 2 columns"),
        (b"id,text\n1\n", r"c\.csv, line 2 has 1 values for 2 columns"),
        (b"id,text,text\n", r"c\.csv names a column twice: id, text, text; rename one"),
        (b"id,body\n1,a\n", r"c\.csv, line 2 has no column 'text', it has id, body; name the right one: --text-column"),
        (b"id,text\n1,a\n2,caf\xe9\n", r"c\.csv, line 3 is not UTF-8; convert the file to it"),
        ("id,text\n1,a\n".encode("utf-16"), r"c\.csv, line 1 is not UTF-8"),
        (b'id,text\n1,"a\n', r"c\.csv, line 2 cannot be read \(unexpected end of data\)"),
        (b'id,text\n1,"a"b\n2,c\n', r"c\.csv, line 2 cannot be read \(',' expected after '\"'\)"),
        (b"id;text\n1;a\n", r"c\.csv has ';' between its columns \('id;text'\), expected ','; convert it"),
    ],
)
def test_a_bad_line_of_a_table_is_named(tmp_path, data, message):
    (tmp_path / "c.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        list(read_documents(tmp_path, "c.csv", Columns()))


def test_what_is_not_read_is_said(tmp_path):
    for name in ("a.jsonl", "b.PDF", "c.pdf", "d.md", "LICENSE"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.warns(UserWarning, match=r"that are not read: 2 .pdf, 1 linked folder, 1 .md, 1 without ending$"):
        find_files(tmp_path).warn_of_others()
    find_files(tmp_path / "a.jsonl").warn_of_others()  # warnings are errors here


def test_a_folder_that_cannot_be_listed_is_named_and_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "shut").mkdir()
    refuse(monkeypatch, os, "scandir", lambda folder: folder.name == "shut")
    for place in (tmp_path, tmp_path / "shut"):
        with pytest.raises(PermissionError, match="shut"):
            find_files(place)
