"""Run the command `cde`."""
