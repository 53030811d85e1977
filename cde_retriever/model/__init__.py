"""Compute with the two-stage model: both stages, and the places where text sees the context."""
