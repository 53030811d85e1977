"""A student that sees a corpus through its context documents alone, and a teacher that knows all of it."""
