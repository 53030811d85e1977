"""Define the errors of training data and of the files of a run.

ValueError
└── TrainingDataError     pairs, documents or vectors that cannot be trained on
RuntimeError
└── ArtifactError         a file of a run that is damaged, incomplete, or belongs to other inputs
"""


class TrainingDataError(ValueError):
    """Training data that cannot be used; the message names file and line, or the pair."""


class ArtifactError(RuntimeError):
    """A file written by an earlier step is damaged, incomplete or belongs to other inputs; the message says which."""
