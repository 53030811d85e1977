"""Sample a corpus and keep the sample as an artifact with a fingerprint. NumPy only."""
