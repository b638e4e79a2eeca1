"""The TPU forward kernel: shapes beyond the shared suite's, its copies in the TPU interpreter, what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import REFERENCE, RUNNERS, Case, assert_close, check
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from tpu_interpreter import PLAIN, RACES, stream_through_one_slot, wait_for_all_but_the_second

from kernels.sparse_attention import api, pallas_tpu, tpu_tiles

pytestmark = pytest.mark.timeout(300)

TPU = RUNNERS["pallas_tpu"]


def forward(x, runner, block=64):
    o, lse = runner.attention(block)(x.q, x.k, x.v, x.ids, x.segments)
    return {"o": np.asarray(o), "lse": np.asarray(lse)}


def assert_same(x, runner):
    assert_close(forward(x, runner), forward(x, REFERENCE), runner.tolerance)


@pytest.mark.parametrize(
    "case",
    [  # tiles of 32 tokens and of 4; a group that is no power of two; a last step of one block
        Case(T=161, G=3, B=2, documents=2),
        pytest.param(Case(T=131, G=1, K=2), marks=pytest.mark.slow),
        pytest.param(Case(T=77, G=32, h=128, n=2), marks=pytest.mark.slow),
    ],
)
def test_equals_the_reference(case):
    check(case, TPU)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Case,
        T=st.integers(1, 300),
        K=st.sampled_from([1, 2]),
        G=st.sampled_from([1, 2, 3, 4, 8, 16, 32]),
        h=st.sampled_from([64, 128]),
        block=st.sampled_from([64, 128]),
        n=st.integers(1, 6),
        B=st.sampled_from([1, 2]),
        documents=st.sampled_from([0, 3]),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_equals_the_reference_at_many_sizes(case):
    check(case, TPU)


def test_tokens_of_a_tile_may_each_see_another_block():
    """The token's own block and its number modulo the blocks: a wrong bit shows."""
    x = Case(T=256, G=2).inputs()
    token = jnp.arange(256, dtype=jnp.int32)
    ids = jnp.stack([token // 64, token % 4], axis=-1)[None, None]
    assert_same(x._replace(ids=ids), TPU)


@pytest.mark.parametrize("group", [*range(1, 17), 24, 32, 33, 48, 64, 128])
def test_a_tile_fills_the_matrix_unit_and_its_tokens_are_bits(group):
    tile = tpu_tiles.tile_tokens(group)
    assert tile in (1, 2, 4, 8, 16, 32)
    assert tile * group % 8 == 0
    assert tile == 32 or 2 * tile * group > 128
    assert tile * group <= 128 or tile // 2 * group % 8


@pytest.fixture
def _reset():
    yield
    pltpu.reset_tpu_interpret_mode_state()


def two_steps(**sizes):
    """One tile that sees all of its three or four blocks."""
    x = Case(**sizes).inputs()
    N, T = -(-sizes["T"] // 64), sizes["T"]
    return x._replace(ids=jnp.where(jnp.arange(T)[:, None] >= T - 4, jnp.arange(N, dtype=jnp.int32), -1)[None, None])


@pytest.mark.usefixtures("_reset")
@pytest.mark.parametrize("documents", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_copies_do_not_race(documents):
    assert_same(two_steps(T=140, G=32, documents=documents), RACES)


@pytest.mark.usefixtures("_reset")
def test_the_interpreter_finds_a_dropped_wait(monkeypatch):
    """V is read before it is there: it is NaN still."""
    monkeypatch.setattr(tpu_tiles, "wait", wait_for_all_but_the_second)
    assert np.isnan(forward(two_steps(T=64, G=32), PLAIN)["o"]).any()


@pytest.mark.usefixtures("_reset")
def test_race_detection_finds_a_slot_filled_too_early(monkeypatch):
    monkeypatch.setattr(pallas_tpu, "stream", stream_through_one_slot)
    with pytest.raises(Exception, match=r"[Rr]ace"):
        forward(two_steps(T=193, G=32), RACES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case(T=64, h=80), "head size 80: the TPU kernels have 64 and 128"),
        (Case(T=64, block=32), "block 32: the TPU kernels have 64 and 128"),
        (Case(T=64, dtype="float16"), "float16: the TPU kernels take bfloat16 and float32"),
    ],
)
def test_a_named_backend_says_what_it_can_run(case, words):
    x = case.inputs()
    with pytest.raises(ValueError, match=words):
        api.block_sparse_attention(x.q, x.k, x.v, x.ids, block=case.block, backend="pallas_tpu")
