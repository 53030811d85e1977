"""Name the words of a language that say nothing about what a text is about, or about what is looked for.

Documents and queries of English leave out Lucene's list, and always did. Queries leave out more, for a model that skips
question words: English a list of its own, other languages those of stopwords-iso (MIT), by ISO 639-1. Their documents
keep all words, so that vectors that were stored stay; what no query asks for counts nowhere but in a document's length.
"""

import unicodedata

# Of Lucene's EnglishAnalyzer (Apache-2.0).
_ENGLISH = """a an and are as at be but by for if in into is it no not of on or such that the their then there these
they this to was will with"""
# What people say around what they look for; in documents such words are rare enough to seem telling.
_ASKING = """what which who whom whose when where why how do does did doing can could should would may might must shall
i me my we us our you your he she his her him has have had been being am were about any some"""
CODES = {
    "arabic": "ar", "armenian": "hy", "basque": "eu", "catalan": "ca", "czech": "cs", "danish": "da", "dutch": "nl",
    "dutch_porter": "nl", "esperanto": "eo", "estonian": "et", "finnish": "fi", "french": "fr", "german": "de",
    "greek": "el", "hindi": "hi", "hungarian": "hu", "indonesian": "id", "irish": "ga", "italian": "it",
    "lithuanian": "lt", "norwegian": "no", "persian": "fa", "polish": "pl", "portuguese": "pt", "romanian": "ro",
    "russian": "ru", "sesotho": "st", "spanish": "es", "swedish": "sv", "turkish": "tr",
}  # fmt: skip
"""Snowball's languages that stopwords-iso has a list for, and its names of them."""


def stop_words(language: str) -> frozenset[str]:
    """Return the words that neither documents nor queries are read with."""
    return frozenset(_ENGLISH.split()) if language == "english" else frozenset()


def question_words(language: str) -> frozenset[str]:
    """Return the words that queries leave out beside them; none for a language without a list."""
    if language == "english":
        return frozenset(_ASKING.split())
    if language not in CODES:
        return frozenset()
    import stopwordsiso  # reads a file of 200 KB, which English does not need

    return frozenset(unicodedata.normalize("NFKC", word).lower() for word in stopwordsiso.stopwords(CODES[language]))
