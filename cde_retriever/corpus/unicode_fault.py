"""Tell why a string is no valid Unicode, as one of bytes that were no text, or of JSON's half characters."""


def unicode_fault(text: str) -> str:
    """Return why a string cannot be written as UTF-8, which lone surrogates cannot, and where; empty if it can."""
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{error.reason} at {error.start}"
    return ""
