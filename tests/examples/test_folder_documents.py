"""The reader of the user's own files."""

from pathlib import Path

import pytest
from llama_index.core.schema import MetadataMode

from examples.folder_documents import LONGEST_HEADING, read_folder
from examples.questions import given_questions, questions_from


def embedded(folder: Path) -> dict[str, str]:
    """Return the embedded text of each document by its name."""
    return {d.metadata["name"]: d.get_content(metadata_mode=MetadataMode.EMBED) for d in read_folder(folder)}


def test_sections_keep_the_headings_above_them(docs):
    texts = embedded(docs)
    assert texts["guide.md: Options"].startswith("Guide > Install > Options\n\nThe option `--fast` makes it quick.")
    assert texts["guide.md"] == "Before any heading."


def test_code_survives_and_sections_without_text_do_not(docs):
    texts = embedded(docs)
    assert "List<String>" in texts["guide.md: Guide"]
    assert "# not a heading" in texts["guide.md: Options"]
    assert "guide.md: Empty" not in texts


def test_html_leaves_no_tags_scripts_or_styles(docs):
    texts = {name: text for name, text in embedded(docs).items() if name.startswith("sub/page.html")}
    joined = "\n".join(texts.values())
    for leak in ("<", ">alpha", "leak", "color", "menu", "&amp;"):
        assert leak not in joined
    assert "one two three & four." in joined
    assert {"alpha", "beta"} <= set(joined.split())
    assert "left | right" in joined


def test_html_without_h1_has_its_title_as_heading_in_its_own_charset(docs):
    assert {"sub/page.html: The café", "sub/page.html: Noise"} <= embedded(docs).keys()


def test_plain_text_is_one_document(docs):
    assert embedded(docs)["note.txt"] == "Bees live in hives. They make honey.\n# not a heading"


def test_html_fragment_without_body_is_read(tmp_path):
    (tmp_path / "part.htm").write_text("<p>Only a paragraph.</p>")
    assert embedded(tmp_path) == {"part.htm": "Only a paragraph."}


def test_bytes_that_are_not_utf8_are_replaced(tmp_path):
    (tmp_path / "old.txt").write_bytes(b"caf\xe9 society")
    assert embedded(tmp_path) == {"old.txt": "caf\ufffd society"}


def test_duplicates_are_read_once_and_long_headings_are_cut(tmp_path):
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text(f"# {'word ' * 100}\n\nThe same text.")
    documents = read_folder(tmp_path)
    assert len(documents) == 1
    assert len(documents[0].metadata["headings"]) <= LONGEST_HEADING


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_folder(tmp_path / "missing")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(FileNotFoundError, match=r"has no \.html"):
        read_folder(tmp_path)


def test_questions_come_from_headings_and_first_sentences(docs):
    questions = questions_from(read_folder(docs))
    assert {"The café", "Bees live in hives."} <= set(questions)
    assert len(questions_from(read_folder(docs), count=2)) == 2


def test_questions_are_read_from_text_or_file(tmp_path):
    assert given_questions("how; why ;\n where") == ["how", "why", "where"]
    file = tmp_path / "questions.txt"
    file.write_text("how; in one go\n\nwhy\n")
    assert given_questions(str(file)) == ["how; in one go", "why"]
    with pytest.raises(ValueError, match="no question in ' ; '"):
        given_questions(" ; ")
