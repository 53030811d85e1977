"""The code of README and docs runs as printed, from top to bottom of each page, in a folder with documents in it.

A block that begins with "python no-run" needs what a test has not (the Hub, a model of the user's): it is compiled, and
what it imports is imported. One with "python needs NAME" runs where that library is installed. Lines of a shell are
parsed by the commands they call.
"""

import ast
import gzip
import importlib
import importlib.util
import json
import re
import shlex
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb.api.shared_system_client import SharedSystemClient

from cde_retriever.bulk.parts import write_part
from cde_retriever.cli.main import main, program
from cde_retriever.search.hybrid import SparseVector
from cde_retriever.words.sparse import Sparse
from cde_train import cli as cde_train

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
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
    """The working directory: documents in ``folder`` and ``docs``, as text and as rows."""
    for name in ("folder", "docs"):
        (tmp_path / name).mkdir()
        for file, text in TEXTS.items():
            (tmp_path / name / file).write_text(text)
    rows = [json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("".join(rows).encode()))
    monkeypatch.chdir(tmp_path)
    SharedSystemClient.clear_system_cache()  # it knows folders by the names they are given, and pages use the same
    return tmp_path


STORES = ROOT / "docs" / "hybrid_stores.md"  # has a test of its own


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page != STORES], ids=lambda page: page.name
)
def test_python_runs_from_top_to_bottom(page, place):
    run_page(page)


def run_page(page: Path) -> dict[str, Any]:
    """Run the code of a page in the working directory and return its names."""
    code = blocks(page, "python")
    if any('read_parts("vectors")' in block for _, block in code):
        _, *arguments = next(line for line in command_lines(page) if line[1] == "embed" and "vectors" in line)
        assert main([*arguments, "--device", "cpu"]) == 0
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, (info, block) in enumerate(code, start=1):
        compiled = compile(block, f"{page.name}, block {number}", "exec")
        needs = info.removeprefix("needs ")
        assert info in ("", "no-run", f"needs {needs}"), f"{page.name} says 'python {info}'"
        if info == "no-run":
            import_all(block)
        elif not info or importlib.util.find_spec(needs):
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # what users see does not stop them
                exec(compiled, names)
    assert len(code) > 0
    return names


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


def test_every_promise_about_security_names_a_test_that_is_there():
    named, file = [], ""
    for place, name in re.findall(r"`([\w/.]*)::(test_\w+)`", (ROOT / "SECURITY.md").read_text()):
        file = place or file  # `::test_name` is of the file before it
        named.append((file, name))
    assert len(named) >= 15
    assert [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []


def test_stores_rank_as_hybrid_search_does_and_opensearch_gets_what_it_takes(place):
    page = run_page(STORES)
    orders = {name: found for name, found in page.items() if name.startswith("found")}
    assert len(orders["found"]) == 3
    for store, order in orders.items():
        assert order == orders["found"], store
    lines = [json.loads(line) for line in (place / "bulk.ndjson").read_text().splitlines()]
    assert [line["index"]["_id"] for line in lines[::2]] == page["ids"] == list(TEXTS)
    width = page["mapping"]["mappings"]["properties"]["dense"]["dimension"]
    for row, line in enumerate(lines[1::2]):
        assert line["dense"] == pytest.approx(page["documents"].dense[row], abs=1e-6)
        assert len(line["dense"]) == width == 384
        places, values = Sparse.of_csr(page["documents"].sparse).row(row)
        assert line["words"] == pytest.approx(dict(zip(map(str, places), values.tolist(), strict=True)))
        assert min(line["words"].values()) > 0
    words, near = page["request"]["query"]["script_score"]["query"]["bool"]["should"]
    tokens = words["neural_sparse"]["words"]["query_tokens"]
    by_hand = [sum(tokens.get(word, 0) * value for word, value in line["words"].items()) for line in lines[1::2]]
    by_hand += np.array([line["dense"] for line in lines[1::2]]) @ near["knn"]["dense"]["vector"]
    assert [page["ids"][row] for row in np.argsort(-np.array(by_hand))[:3]] == orders["found"]


def test_documents_that_share_an_id_keep_their_own_words_in_duckdb(place):
    duckdb = pytest.importorskip("duckdb")
    (place / "vectors").mkdir()
    dense = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    words = Sparse(np.array([0, 1, 2, 2]), np.array([7, 9]), np.array([0.5, 2.0], np.float32))
    write_part(place / "vectors" / "part-000000.parquet", ["a", "a", "b"], dense, {}, None, words)
    asked = {"dense": dense[0], "words": SparseVector([7, 9], [1.0, 1.0])}
    (block,) = [code for info, code in blocks(STORES, "python") if info == "needs duckdb"]
    exec(compile(block, "the block about DuckDB", "exec"), asked)
    assert asked["answer"] == [("a", pytest.approx(2.0)), ("a", pytest.approx(1.5)), ("b", pytest.approx(0.6))]
    assert asked["duckdb"] is duckdb


def test_the_readme_is_short_and_names_each_way_in():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 600
    for way in ("LlamaIndex", "LangChain", "Your own model", "Hybrid search", "Bulk", "Train"):
        assert re.search(rf"^#+ .*{way}", text, re.MULTILINE), f"README has no heading for {way}"
