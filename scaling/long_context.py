"""What is asked of a checkpoint about long rows: the loss by position, and whether what was written is found again."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from scaling.config import RetrievalConfig
from scaling.data import key_value
from scaling.data.heldout import HeldoutRows
from scaling.data.shards import BYTE_OFFSET, EOS, Shards
from scaling.errors import UserError
from scaling.evaluate import TargetFn
from scaling.mesh import DATA, RUNS, Execution, over_all_devices
from scaling.optimizers import Hyper
from scaling.train import Params

# (tokens [R, T+1], segments [R, T+1]) -> of every target [R, T], its nats and whether it is the likeliest token
Scores = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_TOKENS_AT_ONCE = 4096


def scorer(params: Params, target_fn: TargetFn, hyper: Hyper, execution: Execution) -> Scores:
    """A model as a function of rows; a few rows at a time, divided over all devices.

    Args:
        params: the model's parameters, replicated.
        target_fn: what it makes of every target.
        hyper: the scales of the model's forward pass are what is read of it.
        execution: how the parameters lie on devices.
    """
    program = _compiled(target_fn, execution)

    def scores(tokens: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at_once = max(1, _TOKENS_AT_ONCE // tokens.shape[1]) * execution.mesh.size
        nats, likeliest = [], []
        for start in range(0, len(tokens), at_once):
            part = {"tokens": tokens[start : start + at_once], "segments": segments[start : start + at_once]}
            missing = at_once - len(part["tokens"])  # the last batch is padded, so that there is one program
            padded = {name: np.pad(x, ((0, missing), (0, 0)), mode="edge") for name, x in part.items()}
            found = jax.device_get(program(params, jax.device_put(padded, over_all_devices(execution.mesh)), hyper))
            nats.append(found[0][: at_once - missing])
            likeliest.append(found[1][: at_once - missing])
        return np.concatenate(nats), np.concatenate(likeliest)

    return scores


@functools.lru_cache
def _compiled(target_fn: TargetFn, execution: Execution) -> TargetFn:
    """Every device scores its own rows."""
    everywhere, rows = PartitionSpec(), PartitionSpec((RUNS, DATA))
    return jax.jit(
        jax.shard_map(
            target_fn, mesh=execution.mesh, in_specs=(everywhere, rows, everywhere), out_specs=rows, check_vma=False
        )
    )


def loss_by_position(held: HeldoutRows, bins: int, scores: Scores) -> list[dict[str, Any]]:
    """Mean loss against position: how many earlier tokens of its document a target has in the row.

    In a row that is one document, that is its place in the row; in a packed one, what it can see.

    Args:
        held: rows of T targets.
        bins: even bins of positions 1 to T.
        scores: of the model.

    Returns:
        For every bin that has targets: first and last position, nats_per_token, its standard_error over rows (None for
        a single row), tokens.
    """
    nats, _ = scores(held.tokens, held.segments)
    T = nats.shape[1]
    if not 0 < bins <= T:
        raise UserError(f"evaluation.position_bins is {bins}: between 1 and the {T} positions of a row")
    fresh = np.diff(held.segments, axis=1, prepend=held.segments[:, :1] - 1) != 0
    first = np.maximum.accumulate(np.where(fresh, np.arange(T + 1), 0), axis=1)  # where each token's document begins
    positions = (np.arange(T + 1) - first)[:, 1:]
    counted = ~fresh[:, 1:]
    edges = np.arange(bins + 1) * T // bins
    rows = []
    for low, high in zip(edges[:-1] + 1, edges[1:], strict=True):
        inside = counted & (low <= positions) & (positions <= high)
        if inside.any():
            mean, error = _ratio(np.where(inside, nats.astype(np.float64), 0.0).sum(axis=1), inside.sum(axis=1))
            found = {"nats_per_token": mean, "standard_error": error, "tokens": int(inside.sum())}
            rows.append({"first": int(low), "last": int(high)} | found)
    return rows


def _ratio(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float | None]:
    """Sum over sum, with its standard error over rows that have something, by the delta method."""
    sums, counts = sums[counts > 0], counts[counts > 0]
    mean = sums.sum() / counts.sum()
    if len(sums) == 1:
        return float(mean), None
    spread = ((sums - mean * counts) ** 2).sum()
    return float(mean), math.sqrt(len(sums) / (len(sums) - 1) * spread) / float(counts.sum())


def retrieval(config: RetrievalConfig, haystack: Shards, scores: Scores) -> list[dict[str, Any]]:
    """How often the model's likeliest tokens are the whole answer, by length and depth.

    Each letter of an answer is judged given the right ones before it, which says as much as letting the model write.

    Args:
        config: the tests.
        haystack: the held-out text that needles lie in; of bytes.
        scores: of the model.

    Returns:
        For every test ("key_value", "needle"), length and depth (0 is the row's beginning): accuracy, questions.

    Raises:
        UserError: tokens that are not bytes, or rows that do not fit the questions.
    """
    if haystack.manifest.task.vocabulary.kind != "bytes":
        raise UserError(
            f"retrieval tests are of bytes, and task {haystack.name!r} has a vocabulary of "
            f"{haystack.manifest.vocab_size} pieces: evaluate on a task of bytes, or leave retrieval out"
        )
    found = []
    for length in config.lengths:
        how = (length, config.rows, config.depths, config.key_letters, config.seed)
        tests = {
            "key_value": key_value.among_pairs(*how),
            "needle": key_value.in_haystack(_straw(haystack, config.rows * length), *how),
        }
        for test, questions in tests.items():
            _, likeliest = scores(questions.tokens, np.ones_like(questions.tokens))
            right = np.take_along_axis(likeliest[:, None], questions.answers, axis=2).all(axis=2)
            for depth, accuracy in zip(questions.depths, right.mean(axis=0), strict=True):
                row = {"test": test, "length": length, "depth": float(depth), "accuracy": float(accuracy)}
                found.append(row | {"questions": config.rows})
    return found


def _straw(shards: Shards, tokens: int) -> np.ndarray:
    """The split's first tokens in its own order, at most so many, documents parted by a line break."""
    ends = np.cumsum(shards.lengths)
    count = min(shards.num_records, int(np.searchsorted(ends, tokens)) + 1)
    text = np.concatenate(shards.read_many(np.arange(count)))[:tokens]
    return np.where(text == EOS, ord("\n") + BYTE_OFFSET, text)
