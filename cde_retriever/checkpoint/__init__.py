"""Read and write a model as a folder."""
