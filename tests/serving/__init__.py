"""`cde serve`."""
