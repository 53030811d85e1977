"""Fit the encoder into sentence-transformers."""
