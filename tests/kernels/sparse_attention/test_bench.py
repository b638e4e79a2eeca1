"""What the benchmark's figures are made of: ids of a known overlap, visible pairs, FLOPs, break-even lengths."""

import dataclasses

import numpy as np
import pytest

from kernels.sparse_attention import bench
from kernels.sparse_attention.arg_specs import ArgSpec
from kernels.sparse_attention.config import SelectionConfig, num_blocks

SPEC = ArgSpec(1, 2048, 8, 2, 64, SelectionConfig(block=16, blocks=12, init_blocks=1, local_blocks=3, dense_len=0))


def seen_blocks(ids_n, token, block):
    return {i for i in ids_n.tolist() if 0 <= i <= token // block}


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8, 1.0])
def test_neighbours_share_the_asked_part_of_their_free_blocks(overlap):
    ids = bench.overlapping_ids(SPEC, overlap)
    assert ids.shape == (1, 2, 2048, 12)
    shared = total = 0
    for token in range(1024, 2048):
        own = token // 16
        forced = {0, own, own - 1, own - 2}
        now, before = (set(ids[0, 1, t].tolist()) for t in (token, token - 1))
        assert forced <= now
        assert max(now) == own
        if token % 16:  # at an edge the forced ones move
            shared, total = shared + len((now & before) - forced), total + len(now - forced)
    chance = (
        (1 - overlap) * 8 / 95
    )  # a draw may fall on what was there: 95 blocks lie between the forced ones on average
    assert shared / total == pytest.approx(overlap + chance, abs=0.02)


def test_a_row_of_few_blocks_sees_them_all():
    for T in (40, 150, 192):
        spec = dataclasses.replace(SPEC, T=T)
        ids = bench.overlapping_ids(spec, 0.5)
        for token in range(T):
            assert seen_blocks(ids[0, 0, token], token, 16) == set(range(token // 16 + 1)), (T, token)


def test_visible_pairs_are_counted_once():
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, num_blocks(50, 8), (2, 2, 50, 5)).astype(np.int32)
    want = sum(s <= t and s // 8 in ids[b, k, t].tolist() for b, k, t in np.ndindex(2, 2, 50) for s in range(50))
    assert bench.visible_pairs(ids, 8) == want


def test_flops_of_all_pairs_are_those_of_dense_causal_attention():
    """2 B H T^2 h forward to leading order, and 2.5 times that backward."""
    forward, both = bench.attention_flops(SPEC, pairs=2 * 2048 * 2049 // 2)
    assert forward == pytest.approx(2 * 8 * 2048**2 * 64, rel=1e-3)
    assert both == 3.5 * forward


@pytest.mark.parametrize(
    ("ratios", "want"),
    [
        ([0.5, 0.5, 2.0], 2048 * 2**0.5),
        ([2.0, 0.5, 2.0], 2048 * 2**0.5),  # for good, not for the first time
        ([1.0, 2.0, 4.0], 1024.0),
        ([2.0, 2.0, 0.9], None),
    ],
)
def test_break_even_is_where_the_ratio_passes_one_for_good(ratios, want):
    found = bench.break_even([1024, 2048, 4096], ratios)
    assert found == (None if want is None else pytest.approx(want))


def test_rounds_take_turns():
    order = []
    timers = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    assert bench.in_turns(timers, 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
