"""Define the exceptions of the package.

    CDEError
    ├── ConfigError (ValueError)         a configuration contradicts itself or names something unknown
    ├── CheckpointError                  a checkpoint is missing, incomplete or does not fit its configuration
    ├── CorpusError                      a file of documents is damaged, or a row of it is no document
    ├── OutputError                      a folder of vectors belongs to something else, or is damaged
    └── ContextError
        ├── ContextNotFittedError        an embedding was asked for before a context was set
        ├── ContextMismatchError         vectors or a model meet a context they do not belong to
        └── ContextFormatError           a stored context is damaged or of an unknown format

Every message says what is wrong, which value was received, and what to do about it. Wrong types raise the
built-in ``TypeError``. Texts longer than the model reads are no error: they are cut, with a `TruncationWarning`.
"""

from collections.abc import Sequence


class CDEError(Exception):
    """Base class of every error this package raises on its own account."""


class ConfigError(CDEError, ValueError):
    """A configuration contradicts itself or names something unknown.

    Attributes:
        faults: Each fault alone, where the message names several.
    """

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults) or (message,)


class CheckpointError(CDEError):
    """A checkpoint is missing, incomplete, or does not fit its configuration."""


class CorpusError(CDEError):
    """A file of documents is damaged, or a row of it is no document."""


class OutputError(CDEError):
    """A folder of vectors belongs to something else, or is damaged."""


class ContextError(CDEError):
    """Something is wrong with a context."""


class ContextNotFittedError(ContextError):
    """An embedding was asked for before a context was set."""


class ContextMismatchError(ContextError):
    """Vectors, an index or a model meet a context they do not belong to."""


class ContextFormatError(ContextError):
    """A stored context is damaged or of a format this version cannot read."""


class TruncationWarning(UserWarning):
    """Texts were longer than the model reads, and were cut.

    Attributes:
        indices: Which of the texts, ascending.
        texts: How many texts there were.
        max_length: Longest text in tokens that the model reads.
    """

    def __init__(self, indices: Sequence[int], texts: int, max_length: int) -> None:
        self.indices, self.texts, self.max_length = tuple(indices), texts, max_length
        super().__init__(self.indices, texts, max_length)  # so that it can be pickled

    def __str__(self) -> str:
        """Say how many were cut, which came first, and what to do."""
        return (
            f"{len(self.indices)} of {self.texts} texts are longer than {self.max_length} tokens and were cut (the "
            f"first is text {self.indices[0]}); split them to use them whole"
        )
