"""The processes of a run, where ``torchrun`` started several."""

import os


def is_first_process() -> bool:
    """Whether this is the process that writes the run's files and says what came of it; alone, it is."""
    return int(os.environ.get("RANK", "0")) == 0
