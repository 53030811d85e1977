"""Read documents from JSONL, Parquet and folders of text files."""
