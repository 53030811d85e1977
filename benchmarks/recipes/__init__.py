"""Recipes of the bundled checkpoints, and the draw of pairs they train on."""
