"""Figures, one short script each: from a recorded result to a picture beside it."""
