"""Train a two-stage model with two-stage gradient caching."""
