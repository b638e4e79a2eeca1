import numpy as np
import pytest
from data_builders import MemoryShards

from scaling.data.heldout import heldout_rows
from scaling.errors import UserError


class HeldoutShards(MemoryShards):
    """Token i stands for i mod 5 bytes."""

    def __init__(self, lengths):
        super().__init__(lengths, name="held")
        self.token_bytes = np.arange(self.tokens) % 5

    def read_many(self, records):
        return [self.read(record) for record in records]


def test_bytes_of_counted_targets_are_exact():
    shards = HeldoutShards(np.random.default_rng(0).integers(1, 90, 300))
    rows = heldout_rows(shards, 5000, 32)
    assert rows.tokens.shape == (5000 // 32, 33)
    counted = rows.tokens[:, 1:] == rows.tokens[:, :-1] + 1  # goes on within a record
    assert np.array_equal(counted, rows.segments[:, 1:] == rows.segments[:, :-1])
    assert rows.target_bytes.sum() == sum(int(token) % 5 for token in rows.tokens[:, 1:][counted])
    targets = rows.tokens[:, 1:].ravel()
    assert len(np.unique(targets)) == len(targets)


def test_a_small_budget_sees_many_documents_and_is_the_start_of_a_large_one():
    shards = HeldoutShards(np.full(1000, 16))
    small, large = heldout_rows(shards, 640, 32), heldout_rows(shards, 6400, 32)
    assert np.array_equal(large.tokens[:20], small.tokens)
    records = np.unique(small.tokens // 16)
    assert len(records) >= 40
    assert records.max() - records.min() > 800


def test_all_there_is_and_less_than_a_row():
    shards = HeldoutShards([20, 20, 25])
    assert len(heldout_rows(shards, 10**9, 32).tokens) == 2
    for tokens, length in ((31, 32), (1000, 65)):
        with pytest.raises(
            UserError, match=f"held: {tokens} tokens asked and 65 held out, less than one row of {length}"
        ):
            heldout_rows(shards, tokens, length)
