"""`cde`: help, exit codes, what goes to stdout and to stderr, and what is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from cde_retriever import __version__
from cde_retriever.cli.main import COMMANDS, main, program
from cde_retriever.context.context import Context
from cde_retriever.encoder.encoder import ContextualEncoder
from tests.tiny import documents, small_checkpoint

PAGE = Path(__file__).parent.parent.parent / "docs" / "bulk.md"


@pytest.fixture
def corpus(tmp_path):
    rows = [json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(documents(30))]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def command(corpus, checkpoint, tmp_path):
    return ["embed", str(corpus), "-o", str(tmp_path / "out"), "--model", str(checkpoint), "--device", "cpu"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_the_command_understands(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert COMMANDS[name].EXAMPLES in text
    lines = [line.split("   ")[0].split() for line in COMMANDS[name].EXAMPLES.splitlines() if f"cde {name}" in line]
    assert len(lines) >= 2
    for _, *arguments in lines:
        assert program().parser.parse_args(arguments).command == name


def test_help_lists_every_command_once(capsys):
    assert main(["--help"]) == 0
    starts = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [name for name in COMMANDS if sum(name in start for start in starts) != 1] == []


def test_every_option_says_what_it_does_and_its_default(capsys):
    for name in COMMANDS:
        subparser = program()._commands.choices[name]
        for action in subparser._actions:
            assert action.help, f"{name} {action.dest} has no help"
            optional = not action.required and action.dest not in ("help", "debug")
            assert not optional or "default" in action.help, f"{name} {action.dest}: {action.help}"


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cde {__version__}\n"


def test_the_result_is_one_json_line_and_the_rest_says_what_was_done(command, capsys, tmp_path):
    assert main([*command, "--shard-size", "20"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["documents"], result["embedded"], result["skipped"]) == (30, 30, 0)
    assert result["context"] == Context.load(tmp_path / "out").fingerprint
    assert "Embedding" in err
    assert "30 documents embedded in " in err
    assert main([*command, "--shard-size", "20"]) == 0
    assert "0 documents embedded in " in capsys.readouterr().err


@pytest.mark.parametrize(("before", "after"), [(None, "16"), ("200", "200")])
def test_a_stream_s_compiled_kernels_are_few_unless_the_user_says_otherwise(before, after, command, monkeypatch):
    variable = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(variable, before or "")
    if before is None:
        monkeypatch.delenv(variable)
    assert main(command) == 0
    assert os.environ[variable] == after


def test_a_context_file_is_taken(command, checkpoint, capsys, tmp_path):
    context = ContextualEncoder.from_pretrained(checkpoint, device="cpu").fit_context(documents(9, seed=5))
    context.save(tmp_path / "mine.safetensors")
    assert main([*command, "--context", str(tmp_path / "mine.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["context"] == context.fingerprint
    assert main([*command, "--context", str(tmp_path / "no.safetensors")]) == 2
    assert "no context at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (["embed", "corpus.jsonl"], 2, "the following arguments are required: -o/--output"),
        (["embed", "nowhere", "-o", "out"], 2, "cde embed: nowhere does not exist"),
        (["embed", "corpus.jsonl", "-o", "out", "--engine", "spark"], 2, "invalid choice: 'spark'"),
        (["embed", "corpus.jsonl", "-o", "out", "--workers", "2"], 2, "the local engine is one process; add --engine"),
        (["embed", "corpus.jsonl", "-o", "out", "--id-column", "_id"], 1, "corpus.jsonl, line 1 has no column '_id'"),
    ],
)
def test_what_cannot_be_is_one_clear_message(corpus, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(corpus.parent)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not (corpus.parent / "out").exists()


def test_debug_shows_where_an_error_came_from_and_an_interrupt_is_130(command, capsys, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        main(["embed", "nowhere", "-o", "out", "--debug"])

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cde_retriever.bulk.run.embed_corpus", interrupt)
    assert main(command) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_the_command_starts_without_frameworks():
    code = "import sys; from cde_retriever.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pyarrow", "ray", "numpy"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("package", "arguments", "message"),
    [
        ("ray", ["--engine", "ray"], 'pip install "cde-retriever[ray]", or use --engine local, which needs no Ray'),
        ("pyarrow", [], 'pip install "cde-retriever[bulk]"'),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(package, arguments, message, command, tmp_path):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from cde_retriever.cli.main import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_a_command_needs_is_named_at_once(checkpoint, capsys, monkeypatch, tmp_path):
    """Not the extra of the first package that is missing alone, after which another would be."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# Page\n\nOpen Settings.\n")
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    monkeypatch.delitem(sys.modules, "cde_retriever.corpus.passage_size", raising=False)  # another test may have it
    options = [str(tmp_path / "docs"), "-o", str(tmp_path / "out"), "--model", str(checkpoint)]
    for name, extra in (("doctor", "doctor"), ("embed", "bulk")):
        assert main([name, *options]) == 1
        said = capsys.readouterr().err.strip()
        assert said.endswith(f'pip install "cde-retriever[{extra}]"')
        assert said.count("pip install") == 1


def test_the_page_s_way_into_faiss_finds_documents(command, checkpoint, capsys, monkeypatch, tmp_path):
    """The Python on the page, with its folder ``vectors`` and the checkpoint of this test."""
    faiss = pytest.importorskip("faiss", reason='Faiss is not installed: pip install "cde-retriever[train]"')
    command[command.index("-o") + 1] = str(tmp_path / "vectors")
    assert main([*command, "--shard-size", "7"]) == 0
    monkeypatch.chdir(tmp_path)
    snippet = PAGE.read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(snippet.replace("from_pretrained()", f"from_pretrained({str(checkpoint)!r}, device='cpu')"), names)
    assert isinstance(names["index"], faiss.Index)
    assert names["index"].ntotal == 30
    assert names["ids"] == [f"d{i}" for i in range(30)]
    texts = documents(30)
    vectors = names["encoder"].encode_documents(texts)
    assert np.array_equal(names["index"].search(vectors, 1)[1][:, 0], np.arange(30))


def test_export_writes_what_the_encoder_loads(tmp_path, capsys):
    checkpoint = small_checkpoint(tmp_path / "small")
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "serving"), "--dtype", "int8"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result == {"output": str(tmp_path / "serving"), "dtype": "int8", "bytes": result["bytes"]}
    assert "give this folder wherever a model is named" in said.err
    encoder = ContextualEncoder.from_pretrained(tmp_path / "serving")
    encoder.set_context(encoder.null_context())
    assert encoder.encode_queries(["one"]).shape == (1, encoder.dimension)
    assert main(["export", str(checkpoint), "-o", str(checkpoint)]) == 2
    assert "holds something that is no export" in capsys.readouterr().err


def test_an_export_embeds_a_corpus_as_torch_does(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CDE_CACHE", str(tmp_path / "cache"))
    found, model = [], str(small_checkpoint(tmp_path / "small"))
    for backend in ("torch", "onnx", "openvino"):
        output = tmp_path / backend
        assert main([*command, "-o", str(output), "--backend", backend, "--model", model]) == 0
        table = pyarrow.parquet.read_table(next(output.glob("part-*.parquet")))
        found.append(np.array(table["vector"].to_pylist()))
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-5)


@pytest.mark.parametrize(
    "arguments", [["embed", "corpus.jsonl", "-o", "out", "--model"], ["export", "-o", "out"]], ids=["embed", "export"]
)
def test_a_model_of_the_hub_is_pinned_to_a_revision(arguments, corpus, monkeypatch, capsys):
    asked = []

    def refuse(name, *, revision, allow_patterns):
        asked.append((name, revision))
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.chdir(corpus.parent)
    assert main([*arguments, "organisation/model", "--revision", "v1.2"]) == 1
    assert asked == [("organisation/model", "v1.2")]
    assert "no network here" in capsys.readouterr().err
