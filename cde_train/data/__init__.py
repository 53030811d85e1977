"""Read training pairs and judged sets, make queries, and keep evaluation texts out of training."""
