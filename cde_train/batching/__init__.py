"""Group pairs into batches in which every document is a hard negative for the others."""
