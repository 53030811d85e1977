"""Serve vectors over HTTP."""
