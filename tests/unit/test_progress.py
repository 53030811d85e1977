"""Progress in a log file is a line every ten seconds, on a terminal a bar."""

import io
import os
import signal
import sys
import threading

import pytest
import tqdm.std

from cde_retriever.progress import close_all, counter, progress


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only number is the time."""
    now = [100.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock, capsys):
    with counter(total=100, label="Embedding", unit="text") as shown:
        for _ in range(100):
            clock[0] += 0.5
            shown.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("|")[0].split()[1] for line in lines] == ["20%", "40%", "60%", "80%", "100%"]
    assert "20/100 [00:10<00:40,  2.00 text/s]" in lines[0]
    assert "\r" not in "".join(lines)


def test_a_log_gets_the_last_count_once(clock, capsys):
    for seconds in (1, 10):  # before the end is due for a line, and when it is
        with counter(total=2, label="Embedding", unit="text") as shown:
            for _ in range(2):
                clock[0] += seconds
                shown.update()
        assert capsys.readouterr().err.count("2/2") == 1
    counter(total=2, label="Embedding", unit="text").close()
    assert "Embedding:   0% 0/2" in capsys.readouterr().err


def test_items_are_yielded_and_counted(clock, capsys):
    assert list(progress(["a", "b"], label="Reading", unit="doc")) == ["a", "b"]
    assert "2/2" in capsys.readouterr().err
    assert list(progress(iter("abc"), unit="doc")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("3 doc ")


def test_what_was_done_before_counts_but_is_not_in_the_rate(clock, capsys):
    with counter(total=100, initial=90, label="", unit="doc") as shown:
        clock[0] += 5
        shown.update(10)
    line = capsys.readouterr().err
    assert "100/100" in line
    assert "2.00 doc/s" in line


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_said_after_all_are_closed_has_a_line_of_its_own(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    shown = counter(total=4, label="Training", unit="step")
    shown.update(2)
    close_all()
    sys.stderr.write("interrupted\n")
    shown.update()
    shown.close()
    assert sys.stderr.getvalue().endswith("\ninterrupted\n")
    assert "2/4" in sys.stderr.getvalue()


def test_nothing_is_written_when_nothing_is_asked_for(clock, capsys):
    with progress(range(3), show=False) as shown:
        clock[0] += 60
        assert list(shown) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress(range(3), label="Reading")) == [0, 1, 2]
    assert "\rReading: 100%|" in stream.getvalue()


def test_a_failure_still_closes_and_a_closed_stderr_ends_nothing(clock, capsys, monkeypatch):
    broken = progress({"a": 1}[key] for key in "ab")
    with pytest.raises(KeyError):
        list(broken)
    assert capsys.readouterr().err.startswith("1 it ")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert list(progress(range(2))) == [0, 1]
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress(range(2))) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("interactive", [True, False])
def test_a_child_that_is_killed_within_a_bar_does_not_stop_its_parents(monkeypatch, interactive):
    """The lock of tqdm's own bars would stay with the dead child."""
    monkeypatch.setattr(sys, "stderr", Terminal() if interactive else io.StringIO())
    shown = counter(total=9, label="", unit="doc")
    child = os.fork()
    if child == 0:
        shown.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    work = threading.Thread(target=lambda: list(progress(range(3))), daemon=True)
    work.start()
    work.join(30)
    assert not work.is_alive()
    held = counter(total=9, label="", unit="doc").get_lock()
    with held:  # nor does a child wait for a thread that its parent alone has
        child = os.fork()
        if child == 0:
            os._exit(not shown.get_lock().acquire(timeout=30))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
