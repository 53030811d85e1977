"""Real texts to time: documents, queries of sixteen tokens, texts of a given length, very short documents."""

import ast
import random
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_train.data.retrieval_sets import find_retrieval_sets, read_retrieval_set

QUERY_TOKENS = 16


def all_documents(folder: Path) -> tuple[list[str], str]:
    """Return the documents of the retrieval sets in a folder, or else the standard library's docstrings, and which."""
    if folder.is_dir():
        sets = find_retrieval_sets(folder)
        texts = [text for path in sets for text in read_retrieval_set(path).documents if text]
        return texts, f"{folder.name}: documents of {len(sets)} retrieval sets"
    return sorted(set(docstrings())), "docstrings of the Python standard library"


def real_documents(folder: Path, count: int, seed: int = 0) -> tuple[list[str], str]:
    """Draw documents; return them and where they come from."""
    texts, source = all_documents(folder)
    return random.Random(seed).sample(texts, min(count, len(texts))), source


def docstrings() -> list[str]:
    """Return the docstrings of the standard library, read without importing it."""
    found = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    return [text for text in found if text.strip()]


def token_ids(encoder: ContextualEncoder, texts: Sequence[str], role: str = "document") -> list[list[int]]:
    """Return the token ids the encoder reads, special tokens included, without padding."""
    return encoder.text_tokenizer(encoder.config.max_length).tokenize(texts, role).ids


def queries_of(encoder: ContextualEncoder, documents: Sequence[str], count: int) -> list[str]:
    """Cut queries of about sixteen tokens, special tokens included, from the beginnings of documents."""
    return texts_of_length(encoder, documents, QUERY_TOKENS, count)


def texts_of_length(encoder: ContextualEncoder, documents: Sequence[str], tokens: int, count: int) -> list[str]:
    """Cut texts of about so many tokens, special tokens included, from documents set end to end where one is short.

    Raises:
        ValueError: if the documents do not hold so many.
    """
    found: list[str] = []
    ids: list[int] = []
    for row in token_ids(encoder, documents):
        ids = ids + row[1:-1]
        if len(ids) >= tokens - 2:
            found.append(encoder.tokenizer.decode(ids[: tokens - 2]))
            ids = []
        if len(found) == count:
            return found
    raise ValueError(f"the documents hold only {len(found)} texts of {tokens} tokens, {count} are needed")


def short_documents(texts: Sequence[str], count: int, seed: int = 0) -> Iterator[str]:
    """Yield distinct spans of two to four words of the texts, in random order of texts and places.

    Raises:
        ValueError: if the texts do not hold so many.
    """
    rng = random.Random(seed)
    words = [found for text in texts if len(found := re.findall(r"\w+", text)) >= 4]
    seen: set[int] = set()
    for _ in range(20 * count):
        if len(seen) == count:
            return
        row, length = rng.choice(words), rng.randint(2, 4)
        start = rng.randrange(len(row) - length + 1)
        span = " ".join(row[start : start + length])
        if hash(span) not in seen:
            seen.add(hash(span))
            yield span
    if len(seen) < count:
        raise ValueError(f"the texts hold only about {len(seen)} distinct short spans, {count} are needed")
