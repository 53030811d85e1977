"""Programs that show the public API at work; run from the repository, for example ``python -m examples.demo``."""
