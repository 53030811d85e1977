"""Turn data into a checkpoint, step by step and resumably."""
