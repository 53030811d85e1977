"""Measure what a short vector's few numbers, learned from a teacher that knows all words of a corpus, are worth."""
