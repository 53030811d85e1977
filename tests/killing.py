"""Kill writers at random moments, for the tests of what they leave behind.

A suite run kills a few times; ``CDE_KILLS=40`` kills each writer so often.
"""

import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

Begin = Callable[[], None]


def kills(few: int) -> int:
    """Return how often a test kills: as few times as its suite run affords, or as the environment says."""
    return int(os.environ.get("CDE_KILLS", few))


def forked(work: Callable[[], object]) -> int:
    """Let a child do some work, and return its process id; its status is 1 if the work fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            tqdm.set_lock(threading.RLock())  # tqdm's own is shared with the parent, who would wait for it for ever
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def was_killed(child: int) -> bool:
    """Wait for a child, and return whether it was killed.

    Raises:
        AssertionError: if its work failed by itself.
    """
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "the work failed; its traceback is on stderr"
    return status != 0


def killed(work: Callable[[Begin], object], after: float) -> bool:
    """Let a forked child do some work, kill it, and return whether it was still at it.

    Args:
        work: What the child does; it calls its argument when the time begins to count.
        after: Seconds until the kill.

    Raises:
        AssertionError: if the work failed by itself.
    """
    told, tell = os.pipe()
    child = forked(lambda: work(lambda: os.write(tell, b".")))
    os.close(tell)
    assert os.read(told, 1) == b".", "the work failed before it began; its traceback is on stderr"
    os.close(told)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return was_killed(child)


def die_at(write: int) -> None:
    """Kill this process when it opens a file to write, renames or removes something for the so-manieth time."""
    left = [write]

    def hook(event: str, arguments: Any) -> None:
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or flags & (os.O_WRONLY | os.O_RDWR):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at_writes(work: Callable[[Begin], object], step: int) -> Iterator[int]:
    """Let children do some work, each killed some writes later than the one before, until one comes to its end.

    Args:
        work: What a child does; it calls its argument when writes begin to count.
        step: How many writes later.

    Yields:
        How many were killed, after each.
    """
    for count in itertools.count(1):
        if not was_killed(forked(lambda write=count * step: work(lambda: die_at(write)))):  # type: ignore[misc]
            return
        yield count
