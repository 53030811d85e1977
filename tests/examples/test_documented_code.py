"""The code of README and docs runs as printed, from top to bottom of each page, in a folder with documents in it.

A block that begins with "python no-run" needs what a test has not (the Hub, a model of the user's): it is compiled, and
what it imports is imported. Lines of a shell are parsed by the commands they call.
"""

import ast
import importlib
import json
import re
import shlex
import tomllib
import warnings
from pathlib import Path

import pytest
from chromadb.api.shared_system_client import SharedSystemClient

from cde_retriever.cli.main import main, program
from cde_train import cli as cde_train

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TEXTS = {
    "passwords.md": "# Passwords\n\nOpen Settings, choose Account and press *Reset my password*. A mail comes soon.\n",
    "invoices.md": "# Invoices\n\nInvoices lie under Billing. A copy goes to the account's address each month.\n",
    "limits.txt": "A workspace holds a thousand documents and ten members. Plans lift the limits.\n",
    "export.md": "# Export\n\nChoose Export in the menu of a table. The file holds all its rows.\n",
    "languages.txt": "The interface speaks twelve languages. Each member chooses one under Profile.\n",
    "mail.md": "# Mail\n\nThe server sends a mail when a task is due, and another when it is late.\n",
}


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Return the blocks of a page in a language, each with what stands after the language."""
    found = BLOCK.findall(page.read_text())
    return [(info.removeprefix(language).strip(), code) for info, code in found if info.split(" ")[0] == language]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with documents in ``folder`` and ``docs``, as text and as rows; the working directory."""
    for name in ("folder", "docs"):
        (tmp_path / name).mkdir()
        for file, text in TEXTS.items():
            (tmp_path / name / file).write_text(text)
    rows = [json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)
    SharedSystemClient.clear_system_cache()  # it knows folders by the names they are given, and pages use the same
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs_from_top_to_bottom(page, place):
    code = blocks(page, "python")
    if any('read_parts("vectors")' in block for _, block in code):
        assert main(["embed", "corpus.jsonl", "-o", "vectors", "--device", "cpu"]) == 0
    names = {"__name__": "__main__"}
    for number, (info, block) in enumerate(code, start=1):
        compiled = compile(block, f"{page.name}, block {number}", "exec")
        assert info in ("", "no-run"), f"{page.name} says 'python {info}'; known is 'no-run'"
        if info == "no-run":
            import_all(block)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # what users see does not stop them
                exec(compiled, names)
    assert len(code) > 0


def import_all(block: str) -> None:
    """Import what a block of code imports, without running it."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


def command_lines(page: Path) -> list[list[str]]:
    """Return the arguments of each `cde` and `cde-train` that a page shows in a shell, the program first."""
    shown = [block for info in ("", "sh", "bash", "console") for _, block in blocks(page, info)]
    lines = [line for block in shown for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(cde|cde-train) ", line)]


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=lambda page: page.name)
def test_commands_are_understood(page):
    parsers = {"cde": program().parser, "cde-train": cde_train.program().parser}
    for name, *arguments in command_lines(page):
        assert parsers[name].parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=lambda page: page.name)
def test_settings_are_valid(page, tmp_path, capsys):
    for _, block in blocks(page, "toml"):
        assert tomllib.loads(block)
        (tmp_path / "run.toml").write_text(block)
        assert cde_train.main(["validate", str(tmp_path / "run.toml")]) == 0, capsys.readouterr().err


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_is_short_and_names_each_way_in():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 600
    for way in ("LlamaIndex", "LangChain", "Your own model", "Hybrid search", "Bulk", "Train"):
        assert re.search(rf"^#+ .*{way}", text, re.MULTILINE), f"README has no heading for {way}"
