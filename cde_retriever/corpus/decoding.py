"""Decode the bytes of a text file: by its byte-order mark, as UTF-8, or as what it most likely is."""

import codecs
from contextlib import suppress

from cde_retriever.corpus.requirements import missing_package
from cde_retriever.errors import CorpusError

try:
    import charset_normalizer
except ModuleNotFoundError as missing:
    raise missing_package(missing) from missing

COMMON = "cp1252"
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(data: bytes, declared: str | None = None) -> tuple[str, str | None]:
    """Return a text and, if neither the data nor UTF-8 say it, the encoding that was guessed.

    Args:
        data: The bytes.
        declared: Encoding that the text itself names, as web pages do.

    Raises:
        CorpusError: if the bytes are no text.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding), None
    if b"\0" in data:
        raise CorpusError("it holds zero bytes, as no text does")
    for likely in (declared, "utf-8"):
        with suppress(UnicodeDecodeError, LookupError):
            if likely:
                return data.decode(likely), None
    matches = charset_normalizer.from_bytes(data)
    best = matches.best()
    if best is None:
        raise CorpusError("its encoding is unknown; convert it to UTF-8")
    # Short Western texts look as clean in other encodings of a byte a character; as in browsers, the common one wins.
    if any(COMMON in match.could_be_from_charset for match in matches if match.chaos == 0):
        return data.decode(COMMON), COMMON
    return str(best), best.encoding


def _strict(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CorpusError(f"it is not the {encoding} that its byte-order mark announces ({error.reason})") from error
