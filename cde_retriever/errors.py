"""The exceptions of the package.

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
built-in ``TypeError``.
"""


class CDEError(Exception):
    """Base class of every error this package raises on its own account."""


class ConfigError(CDEError, ValueError):
    """A configuration contradicts itself or names something unknown."""


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
