"""Tests of the command `cde-train`."""
