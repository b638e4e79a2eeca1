"""Held-out rows for evaluation, with the exact number of bytes that their targets stand for."""

import dataclasses

import numpy as np

from scaling.data.shards import Shards
from scaling.errors import UserError

_ORDER_SEED = 0


@dataclasses.dataclass(frozen=True)
class HeldoutRows:
    """Rows of held-out text.

    Attributes:
        tokens: int32 [R, T+1], inputs and, shifted by one, targets.
        segments: int32 [R, T+1], numbers the records within a row from 1.
        target_bytes: int64 [R, T], bytes that each target stands for; 0 where the target lies in another
            segment than its input and does not count. Its sum is what summed nats are divided by.
    """

    tokens: np.ndarray
    segments: np.ndarray
    target_bytes: np.ndarray


def heldout_rows(shards: Shards, tokens: int, sequence_length: int) -> HeldoutRows:
    """The first rows of a split in a fixed shuffled order of its records: few rows still see many documents.

    Args:
        shards: of a held-out split.
        tokens: how many targets at most; all there are if it has fewer. Cut to whole rows.
        sequence_length: T.

    Raises:
        UserError: the split, or the number asked, is less than one row.
    """
    T = sequence_length
    count = min(tokens, shards.tokens - 1) // T
    if count < 1:
        raise UserError(
            f"evaluation on {shards.name}: {tokens} tokens asked and {shards.tokens} held out, less than one row "
            f"of {T}: ask for more, or shorten sequence_length"
        )
    order = np.random.Generator(np.random.Philox(_ORDER_SEED)).permutation(shards.num_records)
    ends = np.cumsum(shards.lengths[order])
    chosen = order[: int(np.searchsorted(ends, count * T + 1)) + 1]
    read = np.concatenate(shards.read_many(chosen))
    records = np.repeat(np.arange(len(chosen)), shards.lengths[chosen])
    at = np.arange(count)[:, None] * T + np.arange(T + 1)
    rows, of = read[at], records[at]
    segments = (1 + of - of[:, :1]).astype(np.int32)
    counted = of[:, 1:] == of[:, :-1]
    return HeldoutRows(rows, segments, np.where(counted, shards.token_bytes[rows[:, 1:]], 0))
