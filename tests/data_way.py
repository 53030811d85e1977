"""Draw the way of a text through the rooms: trace a run and write what called what as a picture.

    python -m tests.data_way        # writes docs/text-way.svg

A run is traced with `sys.setprofile`: an arrow is a call from a function of one room into a function of another, with
the number of its first occurrence and that function's name. `tests/test_architecture.py` compares the picture with a
fresh trace.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.test_architecture import ROOMS

PICTURE = Path(__file__).parent.parent / "docs" / "text-way.svg"
COLUMN, ROW, TOP = 108, 24, 56
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1b1f24; text-anchor: middle }
.room { font-weight: 600 } .line { stroke: #9da7b3 } path, .arrow { stroke: #1b1f24; stroke-width: 1.5 }
marker path { fill: #1b1f24 } .ground { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } path, .arrow { stroke: #e6edf3 }
marker path { fill: #e6edf3 } .ground { fill: #0d1117 } }
"""


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
    """Return an SVG of the arrows, one below the other in their order, between rooms as columns, callers first."""
    rooms = [room for room in reversed(ROOMS["cde_retriever"]) if any(room in pair for pair in arrows)]
    place = {room: COLUMN * column + COLUMN // 2 for column, room in enumerate(rooms)}
    width, height = COLUMN * len(rooms), TOP + ROW * len(arrows)
    parts = [f'<rect class="ground" width="{width}" height="{height}"/>']
    for room, x in place.items():
        parts.append(f'<text class="room" x="{x}" y="20">{room}</text>')
        parts.append(f'<line class="line" x1="{x}" y1="30" x2="{x}" y2="{height}"/>')
    for number, ((one, two), name) in enumerate(arrows.items(), start=1):
        y = TOP + ROW * (number - 1)
        parts.append(
            f'<line class="arrow" x1="{place[one]}" y1="{y}" x2="{place[two]}" y2="{y}" marker-end="url(#head)"/>'
            f'<text x="{(place[one] + place[two]) // 2}" y="{y - 4}">{number} {name}</text>'
        )
    said = "; ".join(f"{number} {one} calls {two}" for number, (one, two) in enumerate(arrows, start=1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="title description">\n<title id="title">Calls from room to room</title>\n'
        f'<desc id="description">{said}.</desc>\n<style>{STYLE}</style>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def drawn() -> str:
    """Return the picture of a fresh run."""
    return picture(trace_embed())


if __name__ == "__main__":
    PICTURE.write_text(drawn())
