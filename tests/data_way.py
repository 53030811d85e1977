"""Draw the way of a text through the rooms: trace one run of each package and write what called what as a picture.

    python -m tests.data_way        # writes the pictures into docs/architecture.md

A run is traced with `sys.setprofile`: an arrow is a call from a function of one room into a function of another, with
the number of its first occurrence and that function's name. `tests/test_architecture.py` compares the pictures in
docs/architecture.md with a fresh trace.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- python -m tests.data_way -->", "<!-- end -->"


def trace(run: Callable[[], object], package: str) -> dict[tuple[str, str], str]:
    """Return the calls from room to room while `run` runs, in order: (from, to) to the name of the first function.

    Args:
        run: What to trace; threads that it starts are traced too.
        package: ``"cde_retriever"`` or ``"cde_train"``; rooms of the other stand under the package's name.
    """
    arrows: dict[tuple[str, str], str] = {}

    def room(frame: FrameType | None) -> str | None:
        name = str(frame.f_globals.get("__name__", "")) if frame else ""
        top, _, rest = name.partition(".")
        if top == package and "." in rest:
            return rest.partition(".")[0]
        return top if top in ("cde_retriever", "cde_train") and top != package else None

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_name.startswith("<"):
            return
        there = room(frame)
        if there is None:
            return
        caller = frame.f_back
        while caller is not None and room(caller) is None:  # through libraries, such as torch's Module.__call__
            caller = caller.f_back
        here = room(caller)
        if here is not None and here != there:
            arrows.setdefault((here, there), frame.f_code.co_name.strip("_"))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return arrows


def trace_embed() -> dict[tuple[str, str], str]:
    """Trace `cde embed` on a tiny corpus with a tiny model of random weights."""
    from cde_retriever.cli.main import main
    from tests.tiny import documents, tiny_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        checkpoint = tiny_checkpoint(place / "tiny")
        rows = "".join(f'{{"id": {i}, "text": "{text}"}}\n' for i, text in enumerate(documents(12)))
        (place / "corpus.jsonl").write_text(rows)
        command = ["embed", str(place / "corpus.jsonl"), "-o", str(place / "out"), "--model", str(checkpoint)]
        return trace(lambda: main(command), "cde_retriever")


def picture(arrows: dict[tuple[str, str], str]) -> str:
    """Return a Mermaid flow chart of the arrows, numbered in order."""
    lines = [f"    {a} -- {n} {name} --> {b}" for n, ((a, b), name) in enumerate(arrows.items(), start=1)]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def drawn() -> str:
    """Return what belongs between the marks in docs/architecture.md."""
    return f"{BEGIN}\n{picture(trace_embed())}\n{END}"


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(BEGIN)] + drawn() + page[page.index(END) + len(END) :])
