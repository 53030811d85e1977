"""Files are replaced as a whole."""

import os

import pytest

from cde_retriever.files.replacing import replacing, write_atomically


def test_a_written_file_is_readable_as_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_stream_that_fails_leaves_the_old_file(tmp_path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def write_half() -> None:
        with replacing(file) as stream:
            stream.write(b"half of the n")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write_half()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
