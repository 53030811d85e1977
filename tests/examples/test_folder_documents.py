"""The user's own files as documents of the demo: the same passages as everywhere, named after file and heading."""

import pytest
from llama_index.core.schema import MetadataMode

from cde_retriever.backends.model_spec import ModelSpec
from cde_retriever.bulk.run import embed_corpus
from cde_retriever.bulk.settings import BulkSettings
from cde_train.data.readers import read_data
from examples.folder_documents import read_folder
from examples.questions import given_questions, questions_from


def test_names_say_where_a_passage_stands_and_are_not_embedded(docs, encoder):
    found = {d.metadata["name"]: d.get_content(metadata_mode=MetadataMode.EMBED) for d in read_folder(docs, encoder)}
    assert found["guide.md: Options"].startswith("Guide > Install > Options\n\nThe option `--fast` makes it quick.")
    assert found["guide.md"] == "Before any heading."
    assert found["note.txt"] == "Bees live in hives. They make honey.\n# not a heading"
    assert "left | right" in found["sub/page.html: The café"]
    assert "leak" not in "".join(found.values())


def test_demo_training_and_bulk_read_the_same_passages(docs, encoder, model, tmp_path):
    (docs / ".hidden.md").write_text("hidden")
    (docs / "long.txt").write_text("".join(f"Sentence {i} of some words. " for i in range(99)))
    texts = [document.text for document in read_folder(docs, encoder)]
    assert len(texts) > 10
    assert read_data(docs, encoder.passage_size).documents == texts
    with pytest.warns(UserWarning, match=r"not read: 1 \.png"):
        done = embed_corpus(docs, tmp_path / "out", BulkSettings(ModelSpec(model, device="cpu")))
    assert (done.documents, done.cut) == (len(texts), False)


def test_duplicates_are_read_once(tmp_path, encoder):
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("# Heading\n\nThe same text.")
    assert [document.doc_id for document in read_folder(tmp_path, encoder)] == ["a.md#1"]


def test_what_is_not_read_is_said(docs, encoder, capsys):
    read_folder(docs, encoder, show_progress=True)
    assert "1 file of other kinds not read: 1 .png" in capsys.readouterr().err


def test_questions_come_from_headings_and_first_sentences(docs, encoder):
    questions = questions_from(read_folder(docs, encoder))
    assert {"The café", "Bees live in hives."} <= set(questions)
    assert len(questions_from(read_folder(docs, encoder), count=2)) == 2


def test_questions_are_read_from_text_or_file(tmp_path):
    assert given_questions("how; why ;\n where") == ["how", "why", "where"]
    file = tmp_path / "questions.txt"
    file.write_text("how; in one go\n\nwhy\n")
    assert given_questions(str(file)) == ["how; in one go", "why"]
    file.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}how\n".encode())  # as editors on Windows begin a file
    assert given_questions(str(file)) == ["how"]
    long = "how do I reset the password of an account whose mail address is no longer mine, and who tells me"
    assert given_questions("; ".join([long] * 3)) == [long] * 3, "a file's name may not be as long as three questions"
    with pytest.raises(ValueError, match="no question in ' ; '"):
        given_questions(" ; ")
