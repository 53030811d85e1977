"""Read something over and over in threads while it is changed, for the tests of what readers find meanwhile."""

import random
import threading
import time
from collections.abc import Callable

READERS, SECONDS = 16, 60
PAUSE = 0.2
"""Most seconds between two looks of a reader; without, readers keep the writer from its work and see no more."""


def seen_meanwhile(
    read: Callable[[], str], change: Callable[[], str], passing: tuple[type[Exception], ...] = ()
) -> set[str]:
    """Return all that readers saw until one of them saw the change.

    Args:
        read: Reads, and returns what it saw; its errors fail the test.
        change: Changes what is read, and returns what readers see from then on.
        passing: Errors of readers who are told to try again.

    Raises:
        AssertionError: if a reader failed, or none saw the change within `SECONDS`.
    """
    stop, failed, seen = threading.Event(), [], set()

    def read_on() -> None:
        while not stop.wait(PAUSE * random.random()):
            try:
                seen.add(read())
            except passing:
                continue
            except BaseException as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=read_on, daemon=True) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        new, end = change(), time.monotonic() + SECONDS
        while new not in seen and not failed and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert failed == []
    assert new in seen, f"no reader saw the change within {SECONDS} seconds"
    return seen
