"""Fit the encoder into LangChain."""
