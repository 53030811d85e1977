"""Turn texts into vectors under a context."""
