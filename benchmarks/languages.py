"""What a context is worth in other languages: manual pages found by their first line, paragraphs found by questions.

    apt download manpages-de manpages-fr manpages-ja    # and: dpkg-deb -x FILE FOLDER
    python -m benchmarks.languages FOLDER/usr/share/man/de FOLDER/usr/share/man/fr FOLDER/usr/share/man/ja
    python -m benchmarks.languages xquad.de.json xquad.es.json    # of github.com/google-deepmind/xquad

Of each language `PAGES` pages, chosen by hash; the query is what the first section says after the name, the document
all other sections, at most `CHARACTERS` characters. Of XQuAD all paragraphs, and every second question. nDCG@10 of
plain vectors, of BM25 with them (0.4 and 0.6; words as bm25s splits them, English stems), of two parts under the null
context, and of two parts and one vector under the corpus's own, with the language's stemmer if Snowball has one, and
without. Beside them how many times as much as usual words of queries count (`cde_retriever.context.agreement`). With
``--vectors KEPT`` plain vectors are kept in KEPT/NAME.npz, NAME being ``man-de`` or ``xquad-de``, and read where they
are.
"""

import argparse
import gzip
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.encoder_sizes import kept_texts
from benchmarks.head_ranking import fit_on_kept, kept_head, rank_plain, rank_with_head
from benchmarks.mixtures import rank_mixture
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.search.bm25 import score_bm25
from cde_train.evaluation.ranking import Ranking

PAGES, CHARACTERS = 300, 2000
STEMMERS = {"de": "german", "fr": "french", "ru": "russian", "es": "spanish", "it": "italian", "nl": "dutch"}
STEMMERS |= {"ro": "romanian", "tr": "turkish", "ar": "arabic", "el": "greek", "hi": "hindi", "en": "english"}
HEADER = (
    "| texts | plain | BM25 + plain | null context | own context, no stemmer | own context, stemmer | one vector, own "
    "| words count |"
)


class Asked(NamedTuple):
    """Documents of a language and queries, and for each query the row of the document that answers it."""

    name: str
    queries: list[str]
    documents: list[str]
    answers: Sequence[int]


def read(path: Path) -> Asked:
    """Return the manual pages in a folder, or what a file of XQuAD asks."""
    if path.is_dir():
        queries, documents = read_pages(path)
        return Asked(f"man-{path.name}", queries, documents, range(len(queries)))
    asked = read_questions(path)
    return Asked(f"xquad-{path.stem.rpartition('.')[2]}", *asked)


def read_questions(file: Path) -> tuple[list[str], list[str], list[int]]:
    """Return every second question of a file of SQuAD's format, all paragraphs, and which paragraph answers each."""
    paragraphs = [paragraph for article in json.loads(file.read_text())["data"] for paragraph in article["paragraphs"]]
    pairs = [(row, pair["question"]) for row, paragraph in enumerate(paragraphs) for pair in paragraph["qas"]][::2]
    return [question for _, question in pairs], [one["context"] for one in paragraphs], [row for row, _ in pairs]


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


def quality(ranking: Ranking, answers: Sequence[int] | None = None) -> float:
    """Return nDCG@10 in hundredths where each query has one relevant document; None where that of query i is i."""
    relevant = np.arange(len(ranking)) if answers is None else np.asarray(answers)
    places = np.stack([row[:10] for row in ranking]) == relevant[:, None]
    return 100 * float((places / np.log2(np.arange(2, 12))).sum(axis=1).mean())


def measure(encoder: ContextualEncoder, asked: Asked, kept: Path | None) -> list[float | None]:
    """Return the figures of a language, in the order of `HEADER`; None where it has no stemmer."""
    texts = kept_texts(encoder, asked.documents, asked.queries, kept and kept / f"{asked.name}.npz")
    unstemmed, stemmer = fit_on_kept(encoder, texts, language="none"), STEMMERS.get(asked.name.partition("-")[2])
    stemmed = fit_on_kept(encoder, texts, language=stemmer) if stemmer else unstemmed
    words = score_bm25(texts.documents, texts.queries)
    mixture = rank_mixture("convex_40", words, texts.query_vectors, texts.document_vectors)
    ways = ((encoder.null_context(), "both"), (unstemmed, "both"), (stemmed, "both"), (stemmed, "one"))
    rankings = [rank_plain(texts), mixture, *(rank_with_head(encoder, texts, *way) for way in ways)]
    figures: list[float | None] = [quality(ranking, asked.answers) for ranking in rankings]
    if not stemmer:
        figures[4] = None
    return [*figures, kept_head(encoder, texts, stemmed).agreement.worth]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each language, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.languages", description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", type=Path, help="folders of manual pages, files of XQuAD; one a language")
    parser.add_argument("--model", help="encoder, as folder or Hub id (default: the bundled model)")
    parser.add_argument("--max-length", type=int, help="longest text in tokens (default: the model's own)")
    parser.add_argument("--dtype", help="precision of plain vectors (default: float32)")
    parser.add_argument("--vectors", type=Path, help="folder to keep plain vectors in (default: none are kept)")
    parser.add_argument("--output", type=Path, help="Markdown file to write (default: stdout)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", TruncationWarning)
    how = {"max_length": options.max_length, "dtype": options.dtype, "device": "cpu"}
    encoder = ContextualEncoder.from_pretrained(options.model, **how)
    lines = [HEADER, "|---|" + "--:|" * 7]
    for asked in map(read, options.texts):
        cells = ["-" if figure is None else f"{figure:.1f}" for figure in measure(encoder, asked, options.vectors)]
        lines.append(f"| {asked.name} | " + " | ".join(cells) + " |")
        sys.stderr.write(lines[-1] + "\n")
    text = "\n".join(lines) + "\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
