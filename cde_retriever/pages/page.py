"""Write a page: one HTML file without network, light or dark as the reader's system is, with tables for its plots.

The library that draws is inside the file. The file's own policy forbids it to load or send anything. Every text is
escaped; values reach scripts as JSON alone.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Self

from cde_retriever.files.replacing import write_atomically
from cde_retriever.pages.plots import Plot, Table, Value

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src {script}; img-src data: blob:; form-action {form}; "
    "base-uri 'none'"
)
MOST_ROWS = 1000
"""Rows of a table that are shown; a sentence says how many there are."""
FEW_ROWS = 20
"""Rows of a table that need no field to filter them by."""
ROOM = Path(__file__).parent


class Page:
    """A page, written from top to bottom.

    Args:
        title: What it is about.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._body: list[str] = []
        self._plots: list[Plot] = []
        self._sections = 0

    def heading(self, text: str) -> Self:
        """Begin a section."""
        self._sections += 1
        self._body.append(f'<h2 id="section-{self._sections}">{escape(text)}</h2>')
        return self

    def text(self, text: str, *, strong: bool = False) -> Self:
        """Add a paragraph."""
        self._body.append(f'<p class="strong">{escape(text)}</p>' if strong else f"<p>{escape(text)}</p>")
        return self

    def code(self, text: str) -> Self:
        """Add lines as they are, such as code."""
        self._body.append(f'<pre tabindex="0">{escape(text)}</pre>')
        return self

    def table(self, table: Table, caption: str) -> Self:
        """Add a table."""
        self._body.append(_table(table, caption))
        return self

    def folded(self, summary: str, text: str, table: Table | None = None) -> Self:
        """Add what is seen when it is opened: lines as they are, and a table."""
        inside = f"<pre>{escape(text)}</pre>" + ("" if table is None else _table(table, summary))
        self._body.append(f"<details><summary>{escape(summary)}</summary>{inside}</details>")
        return self

    def plot(self, plot: Plot) -> Self:
        """Add a plot, with the table behind it folded below."""
        name = f"plot-{len(self._plots)}"
        self._plots.append(plot)
        self._body.append(
            f'<figure><figcaption id="{name}-title">{escape(plot.title)}</figcaption>'
            f'<div class="plot" id="{name}" role="img" aria-label="{escape(plot.alt)}"></div>'
            f"<details><summary>The numbers behind “{escape(plot.title)}”</summary>{_table(plot.table, plot.title)}"
            "</details></figure>"
        )
        return self

    def search_field(self, query: str, contexts: Sequence[str], chosen: str) -> Self:
        """Add a field that asks the server the page comes from, and a choice of contexts that asks when it changes."""
        options = "".join(
            f"<option{' selected' if name == chosen else ''}>{escape(name)}</option>" for name in contexts
        )
        self._body.append(
            '<form method="get" action="/" role="search"><label for="q">Query</label>'
            f'<input id="q" name="q" value="{escape(query)}" autofocus maxlength="1000">'
            f'<label for="context">Context</label><select id="context" name="context">{options}</select>'
            "<button>Search</button></form>"
        )
        return self

    def to_html(self, script: str | None = None) -> str:
        """Return the file's content.

        Args:
            script: Where the library that draws is; None puts it into the page.
        """
        figures = [_as_text({"data": plot.traces, "layout": plot.layout}) for plot in self._plots]
        library = ""
        if self._plots:
            library = (
                f"<script>{drawing_library()}</script>"
                if script is None
                else f'<script src="{escape(script)}"></script>'
            )
        policy = POLICY.format(
            script="'unsafe-inline'" + ("" if script is None else " 'self'"),
            form="'none'" if script is None else "'self'",
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_read('page.css')}</style>\n</head>\n<body>\n<main>\n"
            f'<header><h1>{escape(self.title)}</h1><button id="theme" type="button">Dark or light</button></header>\n'
            + "\n".join(self._body)
            + f"\n</main>\n{library}\n"
            f'<script id="figures" type="application/json">{_json(figures)}</script>\n'
            f"<script>{_read('page.js')}</script>\n</body>\n</html>\n"
        )

    def save(self, file: Path, *, tables: bool = False) -> Path:
        """Write the page to a file; all or nothing.

        Args:
            file: Where to.
            tables: Whether to write the table behind each plot beside it, as CSV.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        for number, plot in enumerate(self._plots if tables else (), start=1):
            name = re.sub(r"\W+", "-", plot.title.lower()).strip("-")[:60]
            write_atomically(file.with_name(f"{file.stem}-{number}-{name}.csv"), _csv(plot.table))
        write_atomically(file, self.to_html().encode("utf-8", "replace"))
        return file


def _table(table: Table, caption: str) -> str:
    head = "".join(
        f'<th scope="col"{_kind(row[place] for row in table.rows)}>{escape(heading)}</th>'
        for place, heading in enumerate(table.headings)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows[:MOST_ROWS])
    more = len(table.rows) - MOST_ROWS
    rest = f"<p>{more} more rows are left out here.</p>" if more > 0 else ""
    many = len(table.rows) > FEW_ROWS
    field = (
        f'<input type="search" class="filter" placeholder="Filter rows" aria-label="Filter rows of {escape(caption)}">'
    )
    return (field if many else "") + (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{rest}"
    )


def _kind(values: Iterable[Value]) -> str:
    """Return the attribute of a column's heading: of numbers it stands above them, on the right."""
    return "" if any(isinstance(value, str) for value in values) else ' class="number"'


def _cell(value: Value) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="number">{_number(value)}</td>'


def _number(value: float | int | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4g}"


def _csv(table: Table) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([table.headings, *table.rows])
    return written.getvalue().encode("utf-8", "replace")


def _as_text(value: Any) -> Any:
    """Return values of a figure with every text escaped: Plotly reads names and labels as markup, links among it."""
    if isinstance(value, str):
        return escape(value, quote=False)
    if isinstance(value, Mapping):
        return {name: _as_text(one) for name, one in value.items()}
    return [_as_text(one) for one in value] if isinstance(value, Sequence) else value


def _json(values: Sequence[object]) -> str:
    """Return JSON that does not end the script it stands in."""
    return json.dumps(values, allow_nan=False).replace("<", "\\u003c")


def drawing_library() -> str:
    """Return Plotly's script.

    Raises:
        ImportError: if Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as missing:
        raise ImportError(f'{missing}; install it with: pip install "cde-retriever[pages]"') from missing
    return str(get_plotlyjs())


def _read(name: str) -> str:
    return (ROOM / name).read_text()
