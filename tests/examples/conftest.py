"""A small corpus of real files, and a tiny model long enough for sentences it spells letter by letter."""

from pathlib import Path

import pytest

from cde_retriever.encoder.encoder import ContextualEncoder
from tests.tiny import tiny_checkpoint

GUIDE = """Before any heading.

# Guide
Some text with `List<String>` in code.

## Install
Run pip, then read [the site](http://example.org).

### Options
The option `--fast` makes it quick.

```python
# not a heading
```

## Empty

## Use
Call it with care.
"""

PAGE = """<!doctype html><html><head><meta charset="iso-8859-1"><title>The caf\u00e9</title>
<style>p {color: red}</style>
<script>var leak = 1;</script></head><body><script>alert("leak")</script><nav>menu</nav>
<p>one <b>two</b> three &amp; four.</p><ul><li>alpha</li><li>beta</li></ul>
<table><tr><td>left</td><td>right</td></tr></table><h2>Noise</h2><div>A quiet fan.</div></body></html>
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny checkpoint that reads 512 tokens."""
    return str(tiny_checkpoint(tmp_path_factory.mktemp("demo") / "tiny", max_length=512))


@pytest.fixture(scope="session")
def encoder(model: str) -> ContextualEncoder:
    """That checkpoint, loaded."""
    return ContextualEncoder.from_pretrained(model)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Folder with a Markdown, an HTML and a text file, and one that is none of these."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "guide.md").write_text(GUIDE, encoding="utf-8")
    (folder / "sub" / "page.html").write_text(PAGE, encoding="iso-8859-1")
    (folder / "note.txt").write_text("Bees live in hives. They make honey.\n# not a heading", encoding="utf-8")
    (folder / "image.png").write_bytes(b"\x89PNG")
    return folder
