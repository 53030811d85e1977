"""The demo, from the command line to the table, with a tiny model."""

import json

import pytest

from cde_retriever import ContextualEncoder
from examples.comparison_table import Comparison, count_differences, mark, own_mark, render
from examples.demo import main
from examples.folder_documents import read_folder
from examples.saved_index import build_index, corpus_key, open_index, reason_to_build, splitter_for


@pytest.fixture
def embedded(monkeypatch):
    """List of the texts embedded as documents, under a context or without."""
    seen: list[str] = []
    for name in ("encode_documents", "encode_first_stage"):
        original = getattr(ContextualEncoder, name)

        def counting(self, texts, original=original, **options):
            seen.extend(texts)
            return original(self, texts, **options)

        monkeypatch.setattr(ContextualEncoder, name, counting)
    return seen


@pytest.fixture
def call(docs, model, tmp_path):
    """The demo's command line on the folder of documents."""
    return ["--docs", str(docs), "--model", model, "--index", str(tmp_path / "index"), "--questions", "bees; quiet fan"]


def state(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_second_run_opens_without_embedding_and_answers_alike(call, embedded, capsys, tmp_path):
    assert main(call) == 0
    first = capsys.readouterr()
    before = state(tmp_path / "index")
    assert len(embedded) > 10
    embedded.clear()
    assert main(call) == 0
    second = capsys.readouterr()
    assert embedded == ["bees", "quiet fan"]  # the questions, on the plain side
    assert state(tmp_path / "index") == before
    assert "Building the index: there is no index yet." in first.err
    assert "Opening the index saved in" in second.err
    assert first.out.split("documents  ")[0] == second.out.split("documents  ")[0]


def test_summary_names_the_context(call, capsys, tmp_path):
    assert main(call) == 0
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    out = capsys.readouterr().out
    assert manifest["fingerprint"] in out
    assert f"J = {manifest['context_size']}" in out
    assert str(tmp_path / "index") in out
    assert list(tmp_path.glob(".index*")) == []


def test_changed_corpus_damage_and_flag_are_noticed(call, docs, embedded, capsys, tmp_path):
    assert main(call) == 0
    (docs / "new.txt").write_text("A new file about ships.")
    assert main(call) == 0
    assert "the documents or the model changed" in capsys.readouterr().err
    (tmp_path / "index" / "docstore.json").write_text("{")
    assert main(call) == 0
    assert "the saved index is damaged (docstore.json)" in capsys.readouterr().err
    (tmp_path / "index" / "manifest.json").unlink()
    assert main(call) == 0
    assert "the saved index is incomplete (no manifest.json)" in capsys.readouterr().err
    embedded.clear()
    assert main([*call, "--rebuild"]) == 0
    assert "asked to" in capsys.readouterr().err
    assert len(embedded) > 10


def test_a_failed_build_leaves_the_old_index(docs, encoder, model, tmp_path, monkeypatch):
    documents, folder = read_folder(docs, encoder), tmp_path / "index"
    build_index(documents, folder, encoder, model=model, show_progress=False)
    before = state(folder)
    monkeypatch.setattr("examples.saved_index.PlainVectors.save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_index(documents, folder, encoder, model=model, show_progress=False)
    assert state(folder) == before
    assert list(tmp_path.glob(".index*")) == []
    assert reason_to_build(folder, corpus_key(documents, encoder)) is None


def test_both_sides_find_by_their_own_vectors(docs, encoder, model, tmp_path):
    documents = read_folder(docs, encoder)
    build_index(documents, tmp_path / "index", encoder, model=model, show_progress=False)
    saved = open_index(tmp_path / "index", model)
    encoder.set_context(saved.contextual.embedding.context)
    name, text = documents[-1].metadata["name"], documents[-1].get_content("embed")
    [(plain, mixture)] = saved.search_without(encoder, [text], 3)
    assert (plain[0], mixture[0]) == (name, name)
    assert len(mixture) == len(set(mixture)) == 3
    hits = saved.search(text, 3)
    assert len(hits) == len(set(hits)) == 3


def test_parts_fit_the_model(model):
    encoder = ContextualEncoder.from_pretrained(model)
    text = "A sentence of some words. " * 60 + "x" * 900
    parts = splitter_for(encoder).split_text(text)
    assert len(parts) > 1
    assert max(len(encoder.tokenizer.encode(part).ids) for part in parts) <= encoder.config.max_length


def test_another_folder_is_never_replaced(call, docs, capsys):
    call[call.index("--index") + 1] = str(docs)
    assert main(call) == 1
    assert "holds something other than an index" in capsys.readouterr().err
    assert (docs / "guide.md").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--docs", "missing"], "no folder missing"),
        (["--model", "missing/model/x"], "there is no folder 'missing/model/x'"),
    ],
)
def test_failures_are_said_in_one_line(call, change, message, capsys):
    assert main([*call, *change]) == 1
    assert message in capsys.readouterr().err


def test_wrong_use_and_help():
    with pytest.raises(SystemExit, match="2"):
        main(["--unknown"])
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])


def test_marks_say_how_rankings_differ():
    assert [mark(["a", "b", "c"], ["a", "c", "d"], rank) for rank in range(4)] == [" ", "*", "~", " "]
    comparison = Comparison("question", ["a", "c"], ["d", "a"], ["a", "b" * 90, "c"])
    assert [own_mark(comparison, rank) for rank in range(4)] == [" ", "*", " ", " "]
    table = render(comparison, width=80)
    assert max(map(len, table.splitlines())) <= 80
    assert "..." in table
    assert (table.count("~"), table.count("*")) == (2, 2)
    said = count_differences([comparison, Comparison("another", ["a"], ["b"], ["a"])], 3)
    assert "ours differs from the backbone in 1 of 2 questions, in the first result in 0;" in said
    assert "ours differs from BM25 + backbone in 2 of 2 questions, in the first result in 2;" in said
    assert "BM25 + backbone differs from the backbone in 2 of 2 questions, in the first result in 2." in said
