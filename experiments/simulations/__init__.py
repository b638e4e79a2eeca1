"""Simulation studies: what the estimators do where the truth is known."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def workers(processes: int) -> ProcessPoolExecutor:
    """Processes that share the work of a simulation, started anew: a fork of a process that has run jax may hang."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
