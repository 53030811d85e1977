"""Show what a run did, and what a checkpoint is worth, as pages."""
