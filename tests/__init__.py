"""Tests: units, parity with independent implementations, contracts with the frameworks, examples."""
