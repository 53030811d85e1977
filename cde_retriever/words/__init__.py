"""Read, count and weigh the words of texts; NumPy alone."""
