"""Tests of what the frameworks expect."""
