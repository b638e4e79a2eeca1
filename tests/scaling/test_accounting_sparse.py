"""FLOPs of sparse layers against counting, query by query, what is visible and what is scored."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import SelectionConfig, ladder_model
from scaling.accounting import flops_per_token, scored_keys, visible_tokens

DENSE = ladder_model(16, 259)
selections = st.builds(
    lambda stride, ratio, kernel, blocks, normaliser: SelectionConfig(
        stride * ratio, kernel * stride, stride, blocks, 0, 1, 0, normaliser
    ),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from(["exact", "coarse"]),
)


@given(selections, st.integers(1, 90))
def test_visible_tokens_are_those_of_the_blocks_that_there_are(sparse, length):
    total = 0
    for t in range(length):
        own = t // sparse.block
        total += min(own, sparse.blocks - 1) * sparse.block + t - own * sparse.block + 1
    assert visible_tokens(sparse, length) == pytest.approx(total / length)


@given(selections, st.integers(1, 90))
def test_scored_keys_are_the_windows_that_have_ended(sparse, length):
    def windows(kernel, stride):
        return sum(start + kernel - 1 <= t for t in range(length) for start in range(0, length - kernel + 1, stride))

    total = windows(sparse.kernel, sparse.stride)
    if sparse.normaliser == "coarse":
        total += windows(4 * sparse.kernel, 4 * sparse.stride)
    assert scored_keys(sparse, length) == pytest.approx(total / length)


def test_minicpm4_at_128k_by_hand():
    """96 blocks of 64: nearly 6144 - 32 tokens visible; a pooled key for every 16 tokens, on average T / 32 of them."""
    sparse, T = SelectionConfig(), 131_072
    assert visible_tokens(sparse, T) == pytest.approx(6144 - 31.5, rel=0.03)
    assert scored_keys(sparse, T) == pytest.approx(T / 32, rel=0.001)


def test_layers_count_by_their_kind_and_selection_has_no_backward_pass():
    sparse = SelectionConfig(block=8, kernel=4, stride=2, blocks=3, init_blocks=1, local_blocks=1, dense_len=16)
    mixed = dataclasses.replace(DENSE, attention=("dense", "sparse", "sparse", "sparse"), sparse=sparse)
    T, heads = 64, DENSE.num_heads * DENSE.head_dim
    dense, found = flops_per_token(DENSE, T), flops_per_token(mixed, T)
    assert found.attention == pytest.approx(4 * heads * ((T + 1) / 2 + 3 * visible_tokens(sparse, T)))
    assert found.selection == pytest.approx(2 * heads * 3 * scored_keys(sparse, T))
    assert (found.projections, found.mlp, found.head) == (dense.projections, dense.mlp, dense.head)
    rest = found.projections + found.attention + found.mlp + found.head
    assert found.forward == pytest.approx(rest + found.selection)
    assert found.training == pytest.approx(3 * rest + found.selection)
    assert flops_per_token(mixed, 16) == flops_per_token(DENSE, 16)  # rows that are attended densely
    assert dense.selection == 0


def test_a_selection_of_everything_attends_as_much_as_dense_attention():
    everything = SelectionConfig(block=8, kernel=4, stride=2, blocks=8, init_blocks=1, local_blocks=1, dense_len=0)
    assert np.isclose(visible_tokens(everything, 61), 31)
