"""Find where a long text may be cut before it is tokenised, so that its first tokens stay what they are.

Between a letter or digit and a blank, every splitting of text into words in use begins a new word, no normalisation
joins the two, and words become tokens each by itself. So the tokens of the start of a text, cut there, are the first
tokens of the whole. A tokenizer with a part that is not known to behave so is given texts whole.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

Part = Mapping[str, Any]

NORMALIZERS = frozenset(
    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend", "Strip"}
    | {"StripAccents"}
)
REPLACED_PATTERNS = frozenset({" {2,}"})
SPLITTING_AT_ALL_BLANKS = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit"})
NOT_SPLITTING = frozenset({"Digits", "Punctuation"})
SPLITTING_PATTERNS = frozenset(  # of Llama 3 and Qwen 2, after GPT-4
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
    for number in (r"\p{N}{1,3}", r"\p{N}")
)
# Letters and digits, without fillers of Hangul, which count as letters and may be dropped.
LETTER = r"[^\W_\u115f\u1160\u3164\uffa0]"
CHINESE = "[\u4e00-\u9fff]"


def safe_end(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern that matches up to where a text may be cut, or None if this tokenizer needs texts whole."""
    spec = json.loads(tokenizer.to_str())
    normalizers, splitters = list(_parts(spec["normalizer"])), list(_parts(spec["pre_tokenizer"]))
    blanks = [_blanks(part) for part in splitters if part["type"] not in NOT_SPLITTING]
    if not blanks or not blanks[0] or None in blanks or spec["model"].get("dropout"):
        return None  # the first decides: it may replace blanks, so that others see none
    marks = " \u2581" if any(part["type"] == "Metaspace" for part in splitters) else " "
    if not all(_is_local(part, marks) for part in normalizers):
        return None
    if any(re.search(r"\S[\s\u2581]", token["content"]) for token in spec["added_tokens"]):
        return None  # it would reach over a place where texts are cut
    pattern = f"{LETTER}(?=[{blanks[0]}])"
    if any(part["type"] == "BertNormalizer" and part["handle_chinese_chars"] for part in normalizers):
        pattern += f"|{CHINESE}(?={CHINESE})"  # each is a word there
    return re.compile(pattern)


def start_of(text: str, size: int, end: re.Pattern[str] | None) -> str:
    """Return a text's first characters, at least so many, whose tokens are the text's first, given its `safe_end`."""
    found = end.search(text, size) if end and len(text) > size else None
    return text if found is None else text[: found.end()]


def _parts(part: Part | None) -> Iterator[Part]:
    """Yield what a sequence is made of, or the part itself."""
    if part is None:
        return
    inner = part.get("normalizers") or part.get("pretokenizers")
    if part["type"] == "Sequence":
        for one in inner or ():
            yield from _parts(one)
    else:
        yield part


def _is_local(normalizer: Part, marks: str) -> bool:
    """Whether a normaliser leaves letters before a blank, and the blank as one of the marks that begin words."""
    if normalizer["type"] != "Replace":
        return normalizer["type"] in NORMALIZERS
    pattern: dict[str, str] = normalizer["pattern"]
    if "String" in pattern:
        return re.search(r"[\s\w]", pattern["String"]) is None
    return pattern.get("Regex") in REPLACED_PATTERNS and normalizer["content"] in tuple(marks)


def _blanks(splitter: Part) -> str | None:
    """Return the blanks at which a word begins anew; none for what splits at none, None for what is not known."""
    kind = splitter["type"]
    if kind == "Metaspace":
        return " " if splitter.get("split", True) else ""
    if kind == "ByteLevel":
        return " \n\r\t" if splitter.get("use_regex", True) else ""
    if kind == "Split":
        return " \n\r\t" if splitter["pattern"].get("Regex") in SPLITTING_PATTERNS else None
    if kind in SPLITTING_AT_ALL_BLANKS:
        return " \n\r\t"
    return None
