"""Rank judged corpora and compare a checkpoint with its baselines."""
