"""Fit the encoder into RAG frameworks."""
