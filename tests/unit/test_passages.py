"""Folders of documents as passages: nothing lost, nothing glued, everything fits, and what gives no text is named."""

import pytest
from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer

from cde_retriever.corpus import passage_size
from cde_retriever.corpus.decoding import decode
from cde_retriever.corpus.passage_size import PassageSize
from cde_retriever.corpus.passages import cut_sections, document_files, read_file
from cde_retriever.corpus.sections import markdown_sections, plain_sections, restructured_sections
from cde_retriever.corpus.web_pages import page_sections
from cde_retriever.errors import ConfigError
from examples.folder_documents import notes_on
from tests.tiny import WORDS, tiny_tokenizer

SIZE = PassageSize.of(tiny_tokenizer(), 64, "")


def texts_of(path, size=SIZE):
    folder, names, _ = document_files(path)
    return {passage.id: passage.text for name in names for passage in read_file(folder, name, size).passages}


def page(html):
    """Return headings and text of a page's sections."""
    return [(headings, "\n\n".join(blocks)) for headings, blocks in page_sections(html.encode())[0]]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<html><head><title>T</title><body><h1>A</h1><p>text", [(("A",), "text")]),
        ("<title>Only</title><p>text", [(("Only",), "text")]),
        ("<p>no body at all", [((), "no body at all")]),
        ("<h1>A</h1>x<h2>B/C</h2>y<h2>D</h2>z", [(("A",), "x"), (("A", "B/C"), "y"), (("A", "D"), "z")]),
        ("<nav>menu</nav><script>s</script><style>t</style><template>u</template>x", [((), "x")]),
        ("<?xml version='1.0' encoding='utf-8'?><html><body><p>x</p></body></html>", [((), "x")]),
        ("<ul><li><h3>Item</h3>text</li></ul>", [(("Item",), "  text")]),
        ("<div>" * 3000 + "deep", [((), "deep")]),
        ("<p>" * 3000 + "deep", [((), "deep")]),
        ("<pre># not a heading</pre>", [((), "```\n# not a heading\n```")]),
    ],
)
def test_pages_keep_their_text_under_its_headings(html, expected):
    assert page(html) == expected


@pytest.mark.parametrize(
    "html",
    [
        "<table><tr><td>Basic</td><td>10</td></tr></table>",
        "<table><tr><td>Basic<td>10</table>",
        "<table><tr><td><h2>Basic</h2>10</td></tr></table>",
        "<blockquote>Basic</blockquote>10",
        "<select><option>Basic</option><option>10</option></select>",
        "<details><summary>Basic</summary>10</details>",
        "<dl><dt>Basic<dd>10</dl>",
        "<ul><li>Basic<li>10</ul>",
        "<p>Basic<p>10",
        "<button>Basic</button><label>10</label>",
        "<my-card>Basic</my-card><my-card>10</my-card>",
        "<figure><img><figcaption>Basic</figcaption></figure>10",
        "Basic<br>10",
    ],
)
def test_words_of_different_elements_keep_apart(html):
    ((_, text),) = page(html)
    assert {"Basic", "10"} <= set(text.replace("|", " ").split())


def test_words_of_one_line_stay_together():
    assert page("<p>H<sub>2</sub>O b<code>o</code>ld <span>x</span>y</p>") == [((), "H2O b`o`ld xy")]


def test_pages_are_decoded_as_they_say():
    latin = '<meta charset="iso-8859-1"><p>caf\u00e9'.encode("latin-1")
    assert page_sections(latin)[0][0].blocks == ["caf\u00e9"]
    assert page_sections("<p>\u4e2d\u6587 caf\u00e9".encode())[0][0].blocks == ["\u4e2d\u6587 caf\u00e9"]
    assert page_sections("<p>caf\u00e9".encode("utf-16"))[0][0].blocks == ["caf\u00e9"]


MARKDOWN = """---
title: "Front"
---
Before.

## TCP/IP and `code` [link](http://x) {#anchor}

```python
# a comment

```

~~~
lost? no
~~~

# one

Setext
------

- a

  # in a list

| a | b |
|---|---|
| 1 | 2 |

## Empty
## Last
x
"""


def test_markdown_sections():
    found = [(headings, blocks) for headings, blocks in markdown_sections(MARKDOWN)]
    assert found == [
        ((), ["Before."]),
        (("TCP/IP and code link",), ["```python\n# a comment\n\n```", "~~~\nlost? no\n~~~"]),
        (("one", "Setext"), ["- a\n\n  # in a list", "| a | b |\n|---|---|\n| 1 | 2 |"]),
        (("one", "Last"), ["x"]),
    ]
    assert markdown_sections("---\ntitle: Front\n---\nx\n\n## B\ny") == [(("Front",), ["x"]), (("Front", "B"), ["y"])]
    assert markdown_sections("a\n\n---\n\nb\n\n---\n") == [((), ["a", "b"])]
    assert markdown_sections("") == markdown_sections("---\ntitle: Front\n---\n") == []
    assert markdown_sections("```\n# after a fence of one line\n```\n# Heading\ntext")[1] == (("Heading",), ["text"])


def test_restructured_and_plain_sections():
    text = "=====\nTitle\n=====\n\nIntro.\n\nPart\n----\n\ntext\n\nSub\n~~~\n\nx\n\n-----\n\nOther\n-----\ny\n"
    assert [headings for headings, _ in restructured_sections(text)] == [
        ("Title",),
        ("Title", "Part"),
        ("Title", "Part", "Sub"),
        ("Title", "Other"),
    ]
    assert plain_sections("# no heading\n\n\n---\n\nb") == [((), ["# no heading", "b"])]


def test_every_passage_fits_and_no_word_is_lost():
    words = [WORDS[i % len(WORDS)] for i in range(900)]
    lines = [" ".join(words[i : i + 20]) + "." for i in range(0, 300, 20)]
    text = "# " + " ".join(words[:200]) + "\n\n" + "\n\n".join(lines) + "\n\n" + " ".join(words[300:])
    passages = cut_sections("a.md", markdown_sections(text), SIZE)
    assert max(SIZE.count(passage.text) for passage in passages) <= SIZE.tokens == 62
    bodies = " ".join(passage.text.split("\n\n", 1)[1] for passage in passages)
    assert bodies.replace(".", "").split() == words
    assert [passage.id for passage in passages] == [f"a.md#{i}" for i in range(1, len(passages) + 1)]


@pytest.mark.parametrize("end", ["", " *nolak* tiron", " `nolak`\nbaron.", " " * 9_000 + "nolak", "a" * 9_000])
def test_long_blocks_are_cut_as_if_they_were_read_whole(end):
    text, tokenizer = "Baron kolak, misim. " * 300 + end, Tokenizer.from_str(SIZE.tokenizer)
    assert SIZE.cut(text, 62) == MarkdownSplitter.from_huggingface_tokenizer(tokenizer, 62).chunks(text)
    assert SIZE.count(text) > 62
    assert SIZE.count_each(["baron", end]) == [1, len(tokenizer.encode(end, add_special_tokens=False))]


def test_of_a_long_line_no_more_is_read_than_tells_that_it_is_long(monkeypatch):
    tokenizer, end = passage_size._tokenizer(SIZE.tokenizer)
    read = []

    class Listening:
        def encode_batch_fast(self, texts, **options):
            read.extend(map(len, texts))
            return tokenizer.encode_batch_fast(texts, **options)

    monkeypatch.setattr(passage_size, "_tokenizer", lambda _: (Listening(), end))
    text = "baron kolak " * 5_000 + "*misim* ludor"  # up to the emphasis, all is one part of a line
    assert " ".join(passage.text for passage in cut_sections("a.txt", plain_sections(text), SIZE)) == text
    assert max(read) < 1_000


def test_blocks_stay_whole_while_they_fit():
    size = PassageSize(10, SIZE.tokenizer)
    sections = plain_sections("baron\n\nkolak\n\nmisim ludor zevex ratul tiron nolak\n\nbasim")
    assert [passage.text for passage in cut_sections("a", sections, size)] == [
        "baron\n\nkolak",  # with the third, 12 tokens: 8 words and two empty lines of two tokens at most
        "misim ludor zevex ratul tiron nolak\n\nbasim",
    ]


def test_long_headings_leave_room_for_text():
    heading = " ".join(WORDS[:30])
    (passage,) = cut_sections("a.md", markdown_sections(f"# Above all\n\n## {heading}\n\n### Sub\n\nbaron"), SIZE)
    assert passage.text == "Sub\n\nbaron"
    assert passage.headings == ("Above all", heading, "Sub")
    (passage,) = cut_sections("a.md", markdown_sections(f"# {' '.join(WORDS)}\n\nbaron"), SIZE)
    assert passage.text.endswith("\n\nbaron")
    assert " ".join(WORDS).startswith(passage.text.split("\n\n")[0])


def test_a_model_that_reads_next_to_nothing_is_refused():
    with pytest.raises(ConfigError, match="the model reads 5 tokens of a document, passages need at least 8"):
        PassageSize.of(tiny_tokenizer(), 7, "")
    assert PassageSize.of(tiny_tokenizer(), 64, "baron: ").tokens == 60


def test_a_folder_of_every_kind_of_file(tmp_path):
    docs = tmp_path / ".hidden_above" / "docs"
    for folder in (".venv/x", ".ipynb_checkpoints", "sub"):
        (docs / folder).mkdir(parents=True)
        (docs / folder / "LICENSE.txt").write_text("baron")
    (docs / "README.MD").write_text("# Title\n\nbaron")
    (docs / "wide.txt").write_bytes("kolak caf\u00e9".encode("utf-16"))
    (docs / "mark.txt").write_bytes(b"\xef\xbb\xbfmisim")
    french = "Le caf\u00e9 est tr\u00e8s bon, \u00e0 c\u00f4t\u00e9 de l'h\u00f4tel."
    (docs / "old.txt").write_bytes(french.encode("cp1252"))
    (docs / "binary.txt").write_bytes(b"\x00\x01\x02")
    (docs / "half.txt").write_bytes(b"\xff\xfea\x00b")
    (docs / "empty.html").write_text("<script>x</script>")
    empty = {f"nothing.{ending}" for ending in ("html", "md", "rst", "txt")} | {"blank.md"}
    for name in empty:
        (docs / name).write_text("---\ntitle: T\n---\n \n\n" if name == "blank.md" else "")
    (docs / "image.png").write_bytes(b"\x89PNG")
    (docs / "gone.md").symlink_to(docs / "nowhere.md")
    assert texts_of(docs) == {
        "README.MD#1": "Title\n\nbaron",
        "mark.txt#1": "misim",
        "old.txt#1": french,
        "sub/LICENSE.txt#1": "baron",
        "wide.txt#1": "kolak caf\u00e9",
    }
    listed = document_files(docs)
    read = {name: read_file(listed.folder, name, SIZE) for name in listed.names}
    assert {name for name, file in read.items() if file.reason} == {"binary.txt", "half.txt", "empty.html"} | empty
    assert {name: file.guessed for name, file in read.items() if file.guessed} == {"old.txt": "cp1252"}
    notes = "\n".join(notes_on(read, listed.others))
    assert "8 files gave no text: binary.txt (it holds zero bytes" in notes
    assert "empty.html (it has no text)" in notes
    assert "1 file not in UTF-8, read as what seemed likely: old.txt" in notes
    assert "1 file of other kinds not read: 1 .png" in notes


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("café society", "cp1252"),
        ("Größe und Übermaß der Straße für Bücher", "cp1252"),
        ("Пример русского текста", "cp1251"),
        ("これは日本語の文章です。検索のためです。", "shift_jis"),
    ],
)
def test_old_encodings_are_recognised(text, encoding):
    assert decode(text.encode(encoding))[0] == text


def test_a_folder_without_documents_is_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(FileNotFoundError, match=r"has no file that ends in \.html"):
        document_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        document_files(tmp_path / "nowhere")
