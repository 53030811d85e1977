"""Search with vectors in two parts: dense and exact sparse."""
