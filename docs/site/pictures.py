"""Draw the five pictures of docs/concepts.md as SVG files: `python docs/site/pictures.py`.

Readable in black and white: kinds of boxes differ in their border too. Colours follow the reader's light or dark mode.
"""

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent.parent / "pictures"
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #1b1f24; text-anchor: middle; dominant-baseline: central }
.note { font-size: 13px; fill: #57606a }
rect { rx: 6px; stroke: #1b1f24; fill: #ffffff }
.model { fill: #cfe3f5; stroke-width: 2.5 }
.kept { fill: #fbe7c6; stroke-dasharray: 6 3 }
.refused { fill: #f6d5d5; stroke-width: 2.5; stroke-dasharray: 2 3 }
path { stroke: #1b1f24; fill: none; stroke-width: 1.5 }
marker path { fill: #1b1f24 }
.ground { fill: #ffffff; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .note { fill: #9da7b3 } rect { stroke: #e6edf3; fill: #1b1f24 } path { stroke: #e6edf3 }
marker path { fill: #e6edf3 } .model { fill: #17456b } .kept { fill: #5c430f } .refused { fill: #6b2323 }
.ground { fill: #0d1117 } }
"""
WIDTH, HEIGHT = 150, 52


class Box(NamedTuple):
    """A box: its centre, the lines in it, its kind ("" for texts and vectors, model, kept, refused)."""

    x: int
    y: int
    text: str
    kind: str = ""


class Picture(NamedTuple):
    """A picture: title, description for those who cannot see it, size, boxes by name, arrows "from to label", notes."""

    title: str
    description: str
    size: tuple[int, int]
    boxes: dict[str, Box]
    arrows: tuple[str, ...]
    notes: tuple[Box, ...] = ()


PICTURES = {
    "two-stages": Picture(
        "Two stages",
        "The corpus is sampled once; what the sample teaches is kept as a context. The second stage reads it beside "
        "every document and every query, and gives the vectors that a store searches.",
        (860, 270),
        {
            "corpus": Box(90, 60, "your corpus"),
            "first": Box(345, 60, "first stage:\nneighbours, words", "model"),
            "context": Box(580, 60, "context,\nwith a fingerprint", "kept"),
            "texts": Box(90, 200, "documents, queries"),
            "second": Box(580, 200, "second stage", "model"),
            "vectors": Box(780, 200, "vectors"),
        },
        ("corpus first sample", "first context", "context second", "texts second each text", "second vectors"),
        (Box(345, 110, "once per corpus"), Box(330, 240, "once per text")),
    ),
    "one-context": Picture(
        "Vectors of one context",
        "A query made under the context of an index is answered. A query made under another context raises an error, "
        "because the numbers would look alike and mean something else.",
        (860, 270),
        {
            "a": Box(90, 60, "context A", "kept"),
            "b": Box(90, 200, "context B", "kept"),
            "query a": Box(330, 60, "query under A"),
            "query b": Box(330, 200, "query under B"),
            "index": Box(580, 60, "index of vectors,\nstamped A", "kept"),
            "answer": Box(780, 60, "answers"),
            "error": Box(600, 200, "ContextMismatchError", "refused"),
        },
        ("a query_a", "b query_b", "query_a index compared", "index answer", "query_b error compared"),
    ),
    "two-parts": Picture(
        "Two parts of a text",
        "Under a context a text becomes a dense vector of its meaning and a sparse one of its exact words. Scores of "
        "both add up. A store that knows cosine alone gets one vector instead.",
        (860, 300),
        {
            "text": Box(90, 150, "text"),
            "model": Box(300, 150, "second stage\nunder the context", "model"),
            "dense": Box(530, 50, "dense part:\nmeaning, 384 numbers"),
            "sparse": Box(530, 150, "sparse part:\nexact words, weighed"),
            "one": Box(530, 250, "one vector:\n768 numbers"),
            "score": Box(770, 100, "score = sum of both\ninner products"),
            "cosine": Box(770, 250, "score = cosine"),
        },
        ("text model", "model dense", "model sparse", "model one", "dense score", "sparse score", "one cosine"),
    ),
    "life": Picture(
        "The life of a context",
        "An index is built with a context. Documents that join are embedded under it and change no old vector. A refit "
        "makes a second index beside the first under a new context, and exchanges them in one step that can be undone.",
        (860, 290),
        {
            "fit": Box(90, 60, "fit a context,\nembed"),
            "index": Box(330, 60, "index + context", "kept"),
            "join": Box(570, 60, "documents join:\nold vectors stay"),
            "refit": Box(330, 220, "refit: embed again\nunder a new context", "model"),
            "shadow": Box(570, 220, "new index beside", "kept"),
            "exchange": Box(780, 220, "exchanged at once"),
        },
        ("fit index", "index join", "index refit when it pays", "refit shadow resumable", "shadow exchange"),
        (Box(770, 265, "undo, or confirm"),),
    ),
    "training": Picture(
        "Contextual batches",
        "Training pairs are clustered, so that the documents of a batch are hard negatives for each other. Those that "
        "answer another query of the batch are left out. Gradient caching gives the gradient of "
        "the whole batch in chunks.",
        (860, 270),
        {
            "pairs": Box(90, 60, "pairs, or documents\nwithout queries"),
            "clusters": Box(330, 60, "clusters of near pairs,\nin one domain"),
            "batches": Box(580, 60, "full batches:\nhard negatives"),
            "filter": Box(580, 200, "false negatives\nleft out"),
            "step": Box(330, 200, "both stages, chunk by\nchunk; one gradient", "model"),
            "model": Box(90, 200, "checkpoint and card", "kept"),
        },
        ("pairs clusters", "clusters batches", "batches filter", "filter step", "step model"),
    ),
}


def drawn(picture: Picture) -> str:
    """Return the SVG of a picture."""
    width, height = picture.size
    arrows = "".join(_arrow(picture.boxes, arrow) for arrow in picture.arrows)
    boxes = "".join(_box(box) for box in picture.boxes.values())
    notes = "".join(
        f'<text class="note" x="{note.x}" y="{note.y}">{escape(note.text)}</text>\n' for note in picture.notes
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="title description">\n<title id="title">{escape(picture.title)}</title>\n'
        f'<desc id="description">{escape(picture.description)}</desc>\n'
        f"<style>{STYLE}</style>\n"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>\n'
        f'<rect class="ground" width="{width}" height="{height}"/>\n{arrows}{boxes}{notes}</svg>\n'
    )


def _width(box: Box) -> int:
    return max(WIDTH, 9 * max(map(len, box.text.split("\n"))) + 16)


def _box(box: Box) -> str:
    lines, width = box.text.split("\n"), _width(box)
    top = box.y - 9 * (len(lines) - 1)
    texts = "".join(f'<text x="{box.x}" y="{top + 18 * row}">{escape(line)}</text>' for row, line in enumerate(lines))
    place = f'x="{box.x - width // 2}" y="{box.y - HEIGHT // 2}" width="{width}" height="{HEIGHT}"'
    return f'<rect class="{box.kind or "data"}" {place}/>{texts}\n'


def _arrow(boxes: dict[str, Box], arrow: str) -> str:
    """Draw a straight arrow from the side of one box to the side of another, its label above its middle."""
    start, end, *label = arrow.split(" ", 2)
    one, two = boxes[start.replace("_", " ")], boxes[end.replace("_", " ")]
    if abs(two.x - one.x) > WIDTH // 2:
        side = 1 if two.x > one.x else -1
        points = (one.x + side * _width(one) // 2, one.y, two.x - side * _width(two) // 2, two.y)
    else:
        side = 1 if two.y > one.y else -1
        points = (one.x, one.y + side * HEIGHT // 2, two.x, two.y - side * HEIGHT // 2)
    x1, y1, x2, y2 = points
    named = ""
    if label:
        place = (x1 + 8, (y1 + y2) // 2) if x1 == x2 else ((x1 + x2) // 2, (y1 + y2) // 2 - 12)
        anchor = ' style="text-anchor: start"' if x1 == x2 else ""
        named = f'<text class="note" x="{place[0]}" y="{place[1]}"{anchor}>{escape(label[0])}</text>'
    return f'<path d="M{x1} {y1}L{x2} {y2}" marker-end="url(#head)"/>{named}\n'


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(drawn(picture))
