"""A log of records is what was appended to it whole, whatever became of the last one."""

import os

import pytest

from cde_retriever.files.appending import Log

OWNER = bytes(range(32))
RECORDS = [b"one", b"", b"three " * 50]


def written(file):
    log = Log(file, OWNER)
    for record in RECORDS:
        log.append(record)
    return log


def test_records_are_read_again_and_others_follow_them(tmp_path):
    log = written(tmp_path / "log")
    assert log.read() == RECORDS
    assert log.size == (tmp_path / "log").stat().st_size == 32 + sum(8 + 32 + len(record) for record in RECORDS)
    again = Log(tmp_path / "log", OWNER)
    again.append(b"four")
    assert Log(tmp_path / "log", OWNER).read() == [*RECORDS, b"four"]


def test_a_record_that_was_being_written_does_not_count(tmp_path):
    file = tmp_path / "log"
    size = written(file).size
    content, ends = file.read_bytes(), [32 + 43, 32 + 43 + 40, size]
    for length in range(size):
        file.write_bytes(content[:length])
        whole = sum(length >= end for end in ends)
        log = Log(file, OWNER)
        assert log.read() == RECORDS[:whole], length
        log.append(b"next")
        assert Log(file, OWNER).read() == [*RECORDS[:whole], b"next"], length


def test_the_log_of_other_content_is_empty(tmp_path):
    written(tmp_path / "log")
    other = Log(tmp_path / "log", bytes(32))
    assert other.read() == []
    assert other.size == Log(tmp_path / "none", OWNER).size == 0
    other.append(b"first")
    assert Log(tmp_path / "log", bytes(32)).read() == [b"first"]
    assert Log(tmp_path / "log", OWNER).read() == []


def test_damage_is_refused(tmp_path):
    file = tmp_path / "log"
    content = bytearray(written(file) and file.read_bytes())
    for place in (32 + 8, 32 + 43 - 1, len(content) - 1):  # a hash, data, data of the last
        damaged = content.copy()
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="has another hash than it says"):
            Log(file, OWNER).read()


def test_a_failed_write_leaves_the_records(tmp_path, monkeypatch):
    log = written(tmp_path / "log")
    size = log.size

    def fail(_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            log.append(b"lost")
    assert (tmp_path / "log").stat().st_size == size
    log.append(b"kept")
    assert Log(tmp_path / "log", OWNER).read() == [*RECORDS, b"kept"]
