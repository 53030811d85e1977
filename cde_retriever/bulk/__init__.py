"""Embed a corpus of any size into Parquet files, resumably."""
