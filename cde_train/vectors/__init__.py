"""Embed every training text once and keep the vectors on disk."""
