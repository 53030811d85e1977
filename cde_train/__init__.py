"""Train contextual document embeddings: from a plain encoder and pairs to a checkpoint."""
