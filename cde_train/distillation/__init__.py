"""Learn a short vector's few numbers from a teacher that knows all words of a corpus."""
