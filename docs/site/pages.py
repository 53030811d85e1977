"""Add the site's pages that do not lie in docs/: README, security, examples, the reference and others.

MkDocs calls the functions named `on_…` (https://www.mkdocs.org/user-guide/plugins/#events). Reference pages name
modules; their text is in the docstrings. Commands show the help that the programs print.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from cde_retriever.cli.main import program
from cde_train.cli import program as training_program

ROOT = Path(__file__).parent.parent.parent
CARD = "cde_retriever/checkpoint/bundled/cde-minilm-l6-v3/README.md"
ELSEWHERE = {
    "README.md": "index.md",
    "docs/README.md": "guide.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "promises.md",
    CARD: "model-card.md",
}
"""Files of the checkout, and what they are called on the site."""
REFERENCE = {
    "encoder": ("Encoder and context", "encoder.encoder.ContextualEncoder", "context.context.Context"),
    "llama_index": ("LlamaIndex", "llama_index"),
    "langchain": ("LangChain", "langchain"),
    "doors": ("Chroma, Haystack, sentence-transformers, MTEB", "chroma", "haystack", "sentence_transformers", "mteb"),
    "search": ("Search", "search.hybrid", "search.parts_index", "search.index_file", "search.idf"),
    "bulk": ("Bulk", "bulk.run", "bulk.settings", "bulk.reading"),
    "lifecycle": ("Life of a context", "lifecycle.refit", "lifecycle.trial", "lifecycle.doctor"),
    "errors": ("Errors", "errors"),
}
TRAINING = ("run.config", "training.config", "data.pairs", "data.readers", "data.pseudo_queries", "evaluation.ranking")


def on_config(config: Any) -> Any:
    """Put pages that the menu does not name at its end, so that each can be reached."""
    named, docs = str(config.nav), ROOT / "docs"
    pages = {file.relative_to(docs).as_posix() for file in docs.rglob("*.md")} - {"README.md"}
    others = sorted(page for page in pages if f"'{page}'" not in named)
    if others:
        config.nav.append({"More": others})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are written elsewhere."""
    made = {site: _with_site_links((ROOT / name).read_text(), name) for name, site in ELSEWHERE.items()}
    for page, (title, *names) in REFERENCE.items():
        made[f"reference/{page}.md"] = _reference(title, [f"cde_retriever.{name}" for name in names])
    made["reference/training.md"] = _reference("Training", [f"cde_train.{name}" for name in TRAINING])
    made["reference/commands.md"] = _commands()
    for file in sorted((ROOT / "examples").glob("[!_]*.*")):
        made[f"examples/{file.stem}.md"] = _example(file)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point a page's links at pages of the site, and leave out what only the tests read of a block's first line."""
    markdown = re.sub(r"^```python .*$", "```python", markdown, flags=re.MULTILINE)
    return markdown if page.file.generated_by else _with_site_links(markdown, f"docs/{page.file.src_uri}")


def _with_site_links(text: str, name: str) -> str:
    """Return the text of a file of the checkout with links to other such files as the site calls them."""

    def linked(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = os.path.normpath(Path(name).parent / target)
        if path in ELSEWHERE:
            path = ELSEWHERE[path]
        elif path.startswith("examples/"):
            path = str(Path(path).with_suffix(".md"))
        elif not path.startswith("docs/"):
            return match[0]
        page = ELSEWHERE.get(name, name.removeprefix("docs/"))
        return f"]({os.path.relpath(path.removeprefix('docs/'), Path(page).parent)}{anchor})"

    return re.sub(r"\]\(([^):#\s]+)(#[^)]*)?\)", linked, text)


def _reference(title: str, names: list[str]) -> str:
    return f"# {title}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"


def _example(file: Path) -> str:
    """Return a program, or the cells of a notebook, as a page."""
    if file.suffix == ".py":
        return f"# {file.stem}\n\n```python\n{file.read_text()}```\n"
    shown = {"markdown": "{}\n", "code": "```python\n{}\n```\n"}
    cells = json.loads(file.read_text())["cells"]
    return "\n".join(shown[cell["cell_type"]].format("".join(cell["source"])) for cell in cells)


def _commands() -> str:
    """Return the help of every command of both programs."""
    os.environ["COLUMNS"] = "110"
    text = "# Commands\n"
    for made in (program(), training_program()):
        for parser in made._commands.choices.values():
            text += f"\n## {parser.prog}\n\n```text\n{parser.format_help()}```\n"
    return text
