"""What a context is worth in other languages: manual pages, found by the one line that says what they are about.

    apt download manpages-de manpages-fr manpages-ja    # and: dpkg-deb -x FILE FOLDER
    python -m benchmarks.languages FOLDER/usr/share/man/de FOLDER/usr/share/man/fr FOLDER/usr/share/man/ja

Of each language `PAGES` pages, chosen by hash; the query is what the first section says after the name, the document
all other sections, at most `CHARACTERS` characters. nDCG@10 of plain vectors, of two parts under the null context, and
of two parts and one vector under the corpus's own, with the language's stemmer if Snowball has one, and without.
"""

import argparse
import gzip
import hashlib
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.head_ranking import PlainTexts, fit_on_kept, rank_plain, rank_with_head
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_train.evaluation.ranking import Ranking

PAGES, CHARACTERS = 300, 2000
STEMMERS = {"de": "german", "fr": "french", "ru": "russian", "es": "spanish", "it": "italian", "nl": "dutch"}
HEADER = "| language | plain | null context | own context, no stemmer | own context, stemmer | one vector, own |"


def read_pages(folder: Path) -> tuple[list[str], list[str]]:
    """Return what pages say they are about, and the rest of each."""
    found = {}
    for file in sorted(folder.glob("man*/*.gz")):
        sections = re.split(r"^\.SH .*$", gzip.decompress(file.read_bytes()).decode(errors="replace"), flags=re.M)[1:]
        about = plain_text(sections[0]).partition(" - ")[2] if len(sections) > 2 else ""
        text = plain_text(" ".join(sections[1:]))[:CHARACTERS]
        if len(about) > 8 and len(text) > 200:
            found[about] = text
    names = sorted(found, key=lambda about: hashlib.sha256(about.encode()).digest())[:PAGES]
    return names, [found[name] for name in names]


def plain_text(source: str) -> str:
    """Return a manual page's words without the commands that set them."""
    lines = [re.sub(r"^\.[A-Za-z]{1,3}\b ?", "", line) for line in source.splitlines() if not line.startswith('.\\"')]
    text = re.sub(r"\\f.|\\&|\\[%/,|^]", "", " ".join(lines)).replace("\\-", "-")
    return " ".join(re.sub(r"\\\(..|\\\[\w+\]|\\.", " ", text).split())


def quality(ranking: Ranking) -> float:
    """Return nDCG@10 in hundredths where query i has the one relevant document i."""
    places = np.stack([row[:10] for row in ranking]) == np.arange(len(ranking))[:, None]
    return 100 * float((places / np.log2(np.arange(2, 12))).sum(axis=1).mean())


def measure(encoder: ContextualEncoder, folder: Path) -> list[float | None]:
    """Return the figures of a language, in the order of `HEADER`; None where it has no stemmer."""
    queries, documents = read_pages(folder)
    encoder.set_context(encoder.null_context())
    plain = encoder.encode_documents(documents, parts="dense"), encoder.encode_queries(queries, parts="dense")
    texts = PlainTexts(documents, queries, *plain)
    unstemmed, stemmer = fit_on_kept(encoder, texts, language="none"), STEMMERS.get(folder.name)
    stemmed = fit_on_kept(encoder, texts, language=stemmer) if stemmer else unstemmed
    both = [quality(rank_with_head(encoder, texts, used, "both")) for used in (encoder.context, unstemmed, stemmed)]
    figures: list[float | None] = [quality(rank_plain(texts)), *both]
    if not stemmer:
        figures[-1] = None
    return [*figures, quality(rank_with_head(encoder, texts, stemmed, "one"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each language, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.languages", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="manual pages, one folder a language")
    parser.add_argument("--model", help="encoder, as folder or Hub id (default: the bundled model)")
    parser.add_argument("--max-length", type=int, help="longest text in tokens (default: the model's own)")
    parser.add_argument("--output", type=Path, help="Markdown file to write (default: stdout)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", TruncationWarning)
    encoder = ContextualEncoder.from_pretrained(options.model, max_length=options.max_length, device="cpu")
    lines = [HEADER, "|---|--:|--:|--:|--:|--:|"]
    for folder in options.folders:
        cells = ["-" if figure is None else f"{figure:.1f}" for figure in measure(encoder, folder)]
        lines.append(f"| {folder.name} | " + " | ".join(cells) + " |")
        sys.stderr.write(lines[-1] + "\n")
    text = "\n".join(lines) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
