"""The reader of the standard library."""

import sys
import sysconfig
from pathlib import Path

import pytest
from llama_index.core.schema import MetadataMode

from examples.stdlib_docstrings import MIN_CHARACTERS, library_files, module_name, read_docstrings

SOURCE = '''"""A module about tests, long enough to keep."""
import this_module_does_not_exist

class Thing:
    """A thing that can be done, long enough to keep."""
    def do(self):
        """Do the thing, in a docstring long enough to keep."""
        def inner():
            """Nobody outside can call this inner function."""
    def undo(self):
        """Too short."""
    def _hidden(self):
        """Private, so that no user of the library calls it."""

if True:
    def conditional():
        """Defined under a condition, as much of the library is."""
else:
    def duplicate():
        """Do the thing, in a docstring long enough to keep."""
'''


@pytest.fixture
def library(tmp_path):
    for name in ("tools.py", "package/__init__.py", "test/test_tools.py", "site-packages/other.py", "_private.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SOURCE if name == "tools.py" else f'"""The docstring of the file {name}."""')
    (tmp_path / "broken.py").write_text("def (:")
    return tmp_path


def test_public_documented_names_are_read(library):
    names = [document.metadata["name"] for document in read_docstrings(library)]
    assert names == ["package", "tools", "tools.Thing", "tools.Thing.do", "tools.conditional"]


def test_embedded_text_is_name_and_docstring(library):
    document = read_docstrings(library)[0]
    text = document.get_content(metadata_mode=MetadataMode.EMBED)
    assert text == "package\n\nThe docstring of the file package/__init__.py."


def test_the_library_of_this_interpreter(monkeypatch):
    wanted = {"heapq.py", "json/__init__.py", "difflib.py"}
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for file in library_files(root) if file.relative_to(root).as_posix() in wanted]
    assert {module_name(file, root) for file in files} == {"heapq", "json", "difflib"}
    monkeypatch.setattr("examples.stdlib_docstrings.library_files", lambda _: files)
    loaded = set(sys.modules)
    documents = {document.doc_id: document.text for document in read_docstrings()}
    assert documents["heapq.nlargest"].startswith("Find the n largest elements")
    assert "difflib.SequenceMatcher.ratio" in documents
    assert min(map(len, documents.values())) >= MIN_CHARACTERS
    assert set(sys.modules) == loaded
