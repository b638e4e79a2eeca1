"""Simulation studies: what the estimators do where the truth is known."""
