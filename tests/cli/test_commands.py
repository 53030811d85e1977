"""`cde-train`: help, `validate`, exit codes, and what goes to stdout and to stderr."""

import errno
import json
import os
import subprocess
import sys
import tomllib
import warnings
from unittest.mock import Mock

import pytest

from cde_retriever import __version__
from cde_retriever.files.full_disk import DiskError
from cde_train.cli import EXAMPLES, PRESETS, main, program
from cde_train.errors import TrainingDataError
from cde_train.evaluation.commands import checkpoint_and_sets
from cde_train.run.config import load_run_config, preset_names

COMMANDS = ("fit", "embed", "cluster", "pack", "filter", "evaluate", "report", "analyse", "validate")


def help_of(capsys, *command):
    assert main([*command, "--help"]) == 0
    return capsys.readouterr().out


def test_help_lists_every_command_once(capsys):
    starts = [line.split()[:2] for line in help_of(capsys).splitlines()]
    assert [name for name in COMMANDS if sum(name in start for start in starts) != 1] == []
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_two_examples_that_the_command_understands(capsys, command):
    text = help_of(capsys, command)
    assert EXAMPLES[command] in text
    lines = [line.split("   ")[0].split() for line in EXAMPLES[command].splitlines() if "cde-train" in line]
    assert len(lines) == 2
    for called, *arguments in lines:
        assert called == "cde-train"
        assert program().parser.parse_args(arguments).command == command


def test_help_and_version_need_no_extra():
    """Neither pydantic, which settings are read with, nor a framework."""
    code = "import sys; sys.modules['pydantic'] = None; from cde_train.cli import main; sys.exit(main(sys.argv[1:]))"
    for arguments, said in ((["--version"], f"cde-train {__version__}\n"), (["fit", "--help"], "usage: cde-train fit")):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(said)
    done = subprocess.run([sys.executable, "-c", code, "validate", "small"], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'this command needs: pip install "cde-retriever[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_every_option_says_what_it_does_and_its_default():
    for name in COMMANDS:
        for action in program()._commands.choices[name]._actions:
            optional = not action.required and action.dest not in ("help", "debug")
            assert action.help
            assert not optional or "default" in action.help, f"{name} {action.dest}: {action.help}"


def test_the_bundled_model_is_evaluated_unless_another_is_named():
    parse = program().parser.parse_args
    assert checkpoint_and_sets(parse(["evaluate", "sets"])) == (None, "sets")
    assert checkpoint_and_sets(parse(["evaluate", "my-cde", "sets"])) == ("my-cde", "sets")
    assert preset_names() == PRESETS


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid(capsys, name):
    assert main(["validate", name]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["valid"] is True
    resolved = tomllib.loads(err.partition("\n\n")[2])
    assert [phase["steps"] for phase in resolved["phase"]] == [0] * len(load_run_config(name).phase)


def test_validate_reports_all_faults_at_once_and_nothing_on_stdout(capsys, tmp_path):
    (tmp_path / "run.toml").write_text("[model]\nmax_length = 1\n[[phase]]\nlearning_rte = 1\n")
    assert main(["validate", str(tmp_path / "run.toml"), "--set", "phase.0.temperature=0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "cde-train validate: 4 faults in the configuration:" in err
    for fault in (
        "phase.0.learning_rte is unknown; did you mean phase.0.learning_rate?",
        "model.max_length is 1, expected at least 3",
        "phase.0.temperature is 0, expected more than 0",
        "phase.0.train_length is 128, more than the 1 tokens of model.max_length",
    ):
        assert fault in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["fit", "data"], "the following arguments are required: -o/--output"),
        (["validate", "nothing.toml"], "nothing.toml is neither a file nor one of the presets"),
        (["fit", "nowhere", "-o", "OUT"], "nowhere does not exist"),
        (["fit", "nowhere", "-o", "OUT", "--config", "smal"], "smal is neither a file nor one of the presets"),
        (["fit", "nowhere", "-o", "OUT", "--set", "modl.x=1"], "modl is unknown; did you mean model?"),
    ],
)
def test_wrong_use_is_2_and_one_clear_message(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_is_1_and_a_bug_is_shown_as_one(capsys, monkeypatch):
    def fail(error):
        def run(*_, **__):
            raise error

        return run

    monkeypatch.setattr("cde_train.run.config.load_run_config", fail(TrainingDataError("line 3: no query")))
    assert main(["validate", "small"]) == 1
    assert capsys.readouterr().err == "cde-train validate: line 3: no query\n"
    with pytest.raises(TrainingDataError, match="line 3"):
        main(["validate", "small", "--debug"])
    monkeypatch.setattr("cde_train.run.config.load_run_config", fail(KeyboardInterrupt()))
    assert main(["validate", "small"]) == 130
    assert "run the same command again" in capsys.readouterr().err
    monkeypatch.setattr("cde_train.run.config.load_run_config", fail(AttributeError("a bug")))
    with pytest.raises(AttributeError, match="a bug"):
        main(["validate", "small"])


def test_warnings_and_the_systems_errors_are_sentences(capsys, monkeypatch):
    def denied(*_, **__):
        for level in (1, 2):  # of two places in the code
            warnings.warn("texts were cut", UserWarning, stacklevel=level)
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr("cde_train.run.config.load_run_config", denied)
    assert main(["validate", "small"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "warning: texts were cut"
    assert said[1].startswith("cde-train validate: there: Permission denied; choose another place, or change who may")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("cde_train.run.config.load_run_config", Mock(side_effect=full))
    assert main(["validate", "small"]) == 1
    said = capsys.readouterr().err
    assert said == f"cde-train validate: {os.strerror(errno.ENOSPC)}; free space, then do the same again\n"
    for told in (DiskError(errno.ENOSPC, "full, and more", "there"), DiskError(errno.ENOSPC, "there: full, and more")):
        monkeypatch.setattr("cde_train.run.config.load_run_config", Mock(side_effect=told))
        assert main(["validate", "small"]) == 1
        assert capsys.readouterr().err == "cde-train validate: there: full, and more\n"
    fixed = OSError(errno.EROFS, os.strerror(errno.EROFS), "there")
    monkeypatch.setattr("cde_train.run.config.load_run_config", Mock(side_effect=fixed))
    assert main(["validate", "small"]) == 1
    assert "there: Read-only file system; choose another place" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "code"), [("validate small", 0), ("fit nowhere -o OUT", 2)])
def test_the_command_starts_without_frameworks(command, code):
    program = [sys.executable, "-X", "importtime", "-m", "cde_train.cli", *command.split()]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == code
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "cde_train.run.config" in loaded
    assert not {"torch", "transformers", "faiss", "datasets", "sentence_transformers"} & loaded
