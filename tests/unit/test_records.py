"""Records come back as they were written, and are refused by name otherwise."""

import json

import pytest

from cde_retriever.errors import OutputError
from cde_retriever.files.records import RecordFormat, parse_json

FORMAT = RecordFormat(3, OutputError, "write it again")


def test_a_record_comes_back_and_its_version_is_written(tmp_path):
    FORMAT.write(tmp_path / "record.json", {"rows": 3, "files": {"a": [1, None]}})
    assert json.loads((tmp_path / "record.json").read_text())["format_version"] == 3
    assert FORMAT.read(tmp_path / "record.json") == {"rows": 3, "files": {"a": [1, None]}}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format_version": 2}', "has format 2, this version reads 3; write it again"),
        (b'{"rows": 3}', r"is damaged \(KeyError\('format_version'\)\); write it again"),
        (b'{"format_version": "3"}', "has format '3', this version reads 3"),
        (b'{"format_version": 3, "ro', r"is damaged \(JSONDecodeError.*; write it again"),
        (b"", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[3]", "it is a list, expected an object"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"format_version": 3, "rows": ' + b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_record_is_refused_by_name(content, message, tmp_path):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"record\.json .*" + message):
        FORMAT.read(tmp_path / "record.json")


def test_older_versions_are_read_where_a_format_says_so(tmp_path):
    since_2 = RecordFormat(3, OutputError, "write it again", oldest=2)
    for version in (2, 3):
        assert since_2.parse(f'{{"format_version": {version}, "rows": 1}}', "here") == {"rows": 1}
    for version in ("1", "4", '"3"', "true"):
        with pytest.raises(OutputError, match="this version reads 2 or 3; write it again"):
            since_2.parse(f'{{"format_version": {version}}}', "here")


def test_values_that_make_nothing_are_damage_too_and_errors_that_say_more_are_kept():
    with (
        pytest.raises(OutputError, match=r"here is damaged \(KeyError\('rows'\)\); write it again"),
        FORMAT.reading("here"),
    ):
        _ = {}["rows"]
    with pytest.raises(OutputError, match="says more"), FORMAT.reading("here"):
        raise OutputError("says more")


def test_json_may_be_nested_as_deep_as_python_reads():
    assert parse_json("[[[[1]]]]") == [[[[1]]]]
