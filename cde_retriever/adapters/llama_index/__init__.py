"""Fit the encoder into LlamaIndex."""
