"""Benchmarks: how fast the parts that a study's wall time consists of run here, against a peer and a limit."""
