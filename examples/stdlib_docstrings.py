"""The corpus every machine has: the docstrings of the Python standard library, read with `ast`, nothing imported.

Reading takes about five seconds of one core and gives several thousand documents, one for each public module, class,
function and method that has a docstring.
"""

import ast
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama_index.core.schema import Document

from cde_retriever.progress import progress

MIN_CHARACTERS = 30  # "See base class." and the like answer no question
MAX_DOCUMENTS = 8_000  # a guard for libraries much larger than CPython's: two cores embed about 60 documents a second

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SKIPPED_FOLDERS = {
    "__pycache__": "holds no source",
    "__phello__": "a fixture for frozen modules",
    "dist-packages": "Debian's place for what is not the standard library",
    "site-packages": "not the standard library",
    "test": "describes tests, not what the library does",
    "tests": "as test",
    "idle_test": "as test",
    "idlelib": "an application; nobody calls it",
    "lib2to3": "fixers and grammar of a tool that is gone from 3.13 on",
    "turtledemo": "sample programs",
    "ensurepip": "a bundled installer",
    "pydoc_data": "generated text",
}


def read_docstrings(root: Path | None = None, *, show_progress: bool = False) -> list[Document]:
    """Read one document for each documented public name, without duplicates.

    Args:
        root: Folder of the library; None for this interpreter's.
        show_progress: Whether to show a progress bar on stderr.

    Returns:
        Documents whose embedded text is the qualified name and the docstring, in order of their names. Were there more
        than `MAX_DOCUMENTS`, modules and what stands directly in them would go before methods.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    found: dict[str, Document] = {}  # by docstring: an override that repeats its base's text would answer twice
    names: set[str] = set()
    for path in progress(list(library_files(root)), label="Reading docstrings", unit="file", show=show_progress):
        for name, text in docstrings(path, module_name(path, root)):
            if len(text) >= MIN_CHARACTERS and text not in found and name not in names:
                found[text] = as_document(name, text)
                names.add(name)
    by_depth = sorted(found.values(), key=lambda document: (document.doc_id.count("."), document.doc_id))
    return sorted(by_depth[:MAX_DOCUMENTS], key=lambda document: document.doc_id)


def library_files(root: Path) -> Iterator[Path]:
    """Yield the library's public source files, sorted."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not SKIPPED_FOLDERS.keys() & set(parts) and all(is_public(part) for part in parts):
            yield path


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name under which a file is imported."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_public(name: str) -> bool:
    """Tell whether a name is one that users call: no leading underscore, and no special method."""
    return not name.startswith("_") or name == "__init__"


def docstrings(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """Yield qualified name and docstring of a module and of all public definitions in it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template or a deliberately broken file
        return
    yield from _walk(tree, tree.body, module)


def _walk(node: ast.Module | Definition, body: list[ast.stmt], name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text:
        yield name, text
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return  # what a function defines inside cannot be called from outside
    for child in _definitions(body):
        if is_public(child.name) and child.name != "__init__":
            yield from _walk(child, child.body, f"{name}.{child.name}")


def _definitions(body: Iterable[ast.stmt]) -> Iterator[Definition]:
    """Yield definitions, those under ``if`` and ``try`` included: many depend on the platform."""
    for statement in body:
        if isinstance(statement, Definition):
            yield statement
        elif isinstance(statement, ast.If):
            yield from _definitions([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            yield from _definitions([*statement.body, *handlers, *statement.orelse])


def as_document(name: str, text: str) -> Document:
    """Make a document whose name stands above each part it may be split into."""
    return Document(id_=name, text=text, metadata={"name": name}, metadata_template="{value}")
