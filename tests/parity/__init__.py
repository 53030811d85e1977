"""Tests against independent implementations."""
