"""The life of a context: whether it helps, and what becomes of it as the corpus grows."""
