"""Ask a corpus questions: by the backbone alone, by BM25 and the backbone, and with the corpus as context.

    python -m examples.demo
    python -m examples.demo --docs ./folder --questions "how do I install it; which options are there"

The first run embeds the corpus and saves the index; later runs open it. Progress goes to stderr, results to stdout.
"""

import argparse
import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cde_retriever import CDEError

if TYPE_CHECKING:
    from llama_index.core.schema import Document

    from cde_retriever import ContextualEncoder
    from examples.saved_index import Manifest

TOP = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0 if it went well, 1 if it failed, 2 if it was called wrongly.
    """
    arguments = parse(argv)
    try:
        run(arguments)
    except (CDEError, OSError, ValueError, ImportError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--docs", type=Path, help="folder of text, Markdown or HTML files (default: Python's docstrings)"
    )
    parser.add_argument("--questions", help="a file with one question a line, or questions separated by ';'")
    parser.add_argument("--model", help="a checkpoint folder or Hub id (default: the bundled one)")
    parser.add_argument("--index", type=Path, help="where the index is saved (default: a folder of ./demo_index)")
    parser.add_argument("--rebuild", action="store_true", help="embed again even if the saved index is good")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Read the corpus, open or build its index, ask, and say what was done."""
    from cde_retriever import ContextualEncoder
    from examples.comparison_table import LEGEND, Comparison, count_differences, render
    from examples.saved_index import build_index, corpus_key, open_index, reason_to_build

    start = time.perf_counter()
    if arguments.docs is not None and not arguments.docs.exists():  # said before the seconds that a model takes
        raise FileNotFoundError(f"there is no folder {arguments.docs}; name one with text, Markdown or HTML files")
    encoder = ContextualEncoder.from_pretrained(arguments.model)
    documents = read_documents(arguments.docs, encoder)
    questions, origin = choose_questions(arguments, documents)
    folder = arguments.index or Path("demo_index") / folder_name(arguments.docs)

    reason = reason_to_build(folder, corpus_key(documents, encoder))
    if arguments.rebuild:
        reason = reason or "asked to"
    if reason:
        say(f"Building the index: {reason}.")
        saved = build_index(documents, folder, encoder, model=arguments.model, show_progress=True)
    else:
        say(f"Opening the index saved in {folder}; nothing but the questions is embedded.")
        saved = open_index(folder, arguments.model)

    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    comparisons = []
    print(f"\nQuestions: {origin}\n")
    for question, others in zip(questions, saved.search_without(encoder, questions, TOP), strict=True):
        comparisons.append(Comparison(question, *others, saved.search(question, TOP)))
        print(render(comparisons[-1], width), end="\n\n")
    print(LEGEND)
    print(count_differences(comparisons, TOP), end="\n\n")
    print(summary(saved.manifest, folder, built=bool(reason), seconds=time.perf_counter() - start))


def read_documents(docs: Path | None, encoder: "ContextualEncoder") -> "list[Document]":
    """Read the corpus: a folder, or the docstrings of the standard library."""
    if docs is None:
        from examples.stdlib_docstrings import read_docstrings

        return read_docstrings(show_progress=True)
    from examples.folder_documents import read_folder

    return read_folder(docs, encoder, show_progress=True)


def choose_questions(arguments: argparse.Namespace, documents: "Sequence[Document]") -> tuple[list[str], str]:
    """Return questions and where they come from."""
    from examples.questions import STDLIB_QUESTIONS, given_questions, questions_from

    if arguments.questions:
        return given_questions(arguments.questions), "yours"
    if arguments.docs is None:
        return list(STDLIB_QUESTIONS), "what a developer may ask of the standard library"
    return questions_from(documents), "none given, so headings or first sentences of your documents; ask your own!"


def folder_name(docs: Path | None) -> str:
    """Return the name of a corpus's index folder; two folders of one name have different ones."""
    if docs is None:
        return "stdlib"
    path = docs.resolve()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def summary(manifest: "Manifest", folder: Path, *, built: bool, seconds: float) -> str:
    """Say what the index is, where it is, and what it took."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    work = "to embed them with and without context" if built else "when it was built; now nothing was embedded again"
    rows = {
        "documents": f"{manifest.documents:,}, embedded in {manifest.chunks:,} parts",
        "context size": f"J = {manifest.context_size}",
        "fingerprint": manifest.fingerprint,
        "embedding": f"{manifest.seconds:.1f} s {work}",
        "this run": f"{seconds:.1f} s",
        "saved in": f"{folder} ({size / 1e6:.0f} MB)",
    }
    return "\n".join(f"{name:<13} {value}" for name, value in rows.items())


def say(text: str) -> None:
    """Tell what is going on, beside the progress bars."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
