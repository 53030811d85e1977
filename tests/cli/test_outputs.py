"""Where `cde` and `cde-train` write is checked before work begins: inputs are not there, and nobody asks for them."""

import sys

import pytest

from cde_retriever.cli import main as cde
from cde_train import cli as cde_train

FOLDER = {
    "cde": {
        "doctor": "nowhere",
        "embed": "nowhere",
        "explore": "nowhere",
        "export": "nowhere",
        "migrate": "nowhere",
        "wrap": "nowhere",
    },
    "cde-train": {
        "fit": "data.jsonl",
        "embed": "nowhere",
        "evaluate": "nowhere --mteb STSBenchmark",
        "report": "nowhere",
        "analyse": "nowhere nowhere",
    },
}
FILE = {
    "cde-train": {
        "cluster": "nowhere --vectors nowhere",
        "pack": "nowhere --vectors nowhere --clusters nowhere",
        "filter": "nowhere --vectors nowhere --batches nowhere",
        "evaluate": "nowhere",
    }
}
NO_FOLDER = {
    "file": "file is a file; give a folder to write into",
    "file/out": "nothing can be written to ",
    "/proc/out": "nothing can be written to /proc: ",
    "": "-o is empty; say where to write to",
}
NO_FILE = {
    "folder": "folder is a folder; give the name of a file in it",
    "missing/out": "missing does not exist; make this folder first, or give a file elsewhere",
    "/proc/out": "nothing can be written to /proc: ",
    "": "-o is empty; say where to write to",
}
PROGRAMS = {"cde": cde, "cde-train": cde_train}
CASES = [
    (program, command, arguments, output, message)
    for kind, outputs in ((FOLDER, NO_FOLDER), (FILE, NO_FILE))
    for program, commands in kind.items()
    for command, arguments in commands.items()
    for output, message in outputs.items()
]


def test_every_command_that_writes_is_in_the_tables():
    for name, program in PROGRAMS.items():
        commands = program.program()._commands.choices
        writers = {command for command in commands if "-o" in commands[command]._option_string_actions}
        assert writers == {*FOLDER[name], *FILE.get(name, ())}


@pytest.mark.parametrize(("program", "command", "arguments", "output", "message"), CASES)
def test_a_place_that_cannot_be_written_to_is_one_sentence(
    program, command, arguments, output, message, tmp_path, monkeypatch, capsys
):
    if output.startswith("/proc") and sys.platform != "linux":
        pytest.skip("no folder that not even an administrator may write to")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "data.jsonl").write_text("")
    assert PROGRAMS[program].main([command, *arguments.split(), "-o", output]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{program} {command}: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"
