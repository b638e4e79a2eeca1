"""The TPU scoring kernel against its specification, `selection.block_scores`, and the selection made with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from kernels.sparse_attention import api, scoring_tpu, selection
from kernels.sparse_attention.config import COARSENING, SelectionConfig

pytestmark = pytest.mark.timeout(300)

EXACT, COARSE = SelectionConfig(), SelectionConfig(normaliser="coarse")


def scores(scorer, config, *, T, first, queries, K=1, G=2, h=64, documents=1, seed=0):
    """Of some queries of a random row of T tokens."""
    rng = np.random.default_rng(seed)
    q, k = (jnp.asarray(rng.normal(size=(1, n, heads, h)), jnp.float32) for n, heads in ((queries, K * G), (T, K)))
    documents_1T = None
    if documents > 1:
        documents_1T = jnp.asarray(np.sort(rng.integers(documents, size=(1, T)), axis=1), jnp.int32)

    @jax.jit
    def run(q, k, documents_1T, first):
        pool = functools.partial(selection.pool_keys, k, segments_BS=documents_1T)
        pooled, coarse = pool(config.kernel, config.stride), None
        if config.normaliser == "coarse":
            coarse = pool(COARSENING * config.kernel, COARSENING * config.stride)
        segments = None
        if documents_1T is not None:
            own = jax.lax.dynamic_slice_in_dim(documents_1T, first, queries, axis=1)
            segments = selection.ScoreSegments(own, pooled.segments_BP, coarse and coarse.segments_BP)
        return scorer(q, pooled.keys_BPKh, coarse and coarse.keys_BPKh, first, config, T, segments)

    return np.asarray(run(q, k, documents_1T, first))


# Early queries see no window, or no coarse one; 129 blocks are two chunks, and only a window of the first chunk's last
# block reaches into the last block; blocks of 128 have nine windows.
CASES = {
    "exact": (EXACT, {"T": 300, "first": 20, "queries": 50, "K": 2, "G": 4}),
    "exact, documents": (EXACT, {"T": 300, "first": 230, "queries": 70, "G": 1, "documents": 3}),
    "coarse, group 16": (COARSE, {"T": 400, "first": 100, "queries": 60, "G": 16}),
    "coarse, documents": (COARSE, {"T": 700, "first": 600, "queries": 9, "documents": 2}),
    "two chunks": (EXACT, {"T": 64 * 128 + 18, "first": 64 * 128 + 10, "queries": 8}),
    "block 128": (SelectionConfig(block=128, blocks=40), {"T": 500, "first": 400, "queries": 100, "G": 3, "h": 128}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_specification(name):
    config, sizes = CASES[name]
    want = scores(selection.block_scores, config, **sizes)
    got = scores(functools.partial(scoring_tpu.block_scores, interpret=True), config, **sizes)
    assert want.max() > 0
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_the_last_block_of_two_chunks_is_scored():
    """The case above is the one it is meant to be."""
    assert (scores(selection.block_scores, *CASES["two chunks"][:1], **CASES["two chunks"][1])[..., 128] > 0).any()


@pytest.mark.parametrize(
    "config",
    [SelectionConfig(blocks=4, local_blocks=1), SelectionConfig(blocks=5, local_blocks=2, normaliser="coarse")],
)
def test_selects_the_same_blocks(config):
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 515, heads, 64)), jnp.float32) for heads in (4, 1))
    select = functools.partial(api.select_blocks, q, k, config, chunk=256)
    np.testing.assert_array_equal(select(backend="pallas_tpu", interpret=True), select(backend="xla"))


class WithoutZeros:
    """A planted bug: a reference that is never cleared, so that skipped blocks keep what was in memory."""

    def __init__(self, ref):
        self.ref = ref
        self.shape, self.dtype = ref.shape, ref.dtype

    def __setitem__(self, where, value):
        if where is not Ellipsis:
            self.ref[where] = value


@pytest.fixture
def _reset():
    yield
    pltpu.reset_tpu_interpret_mode_state()


@pytest.mark.usefixtures("_reset")
def test_blocks_after_the_queries_are_cleared_and_the_interpreter_would_see_it(monkeypatch):
    """129 blocks, of which these queries can see the first chunk; memory starts as NaN."""
    sizes = {"T": 64 * 128 + 40, "first": 100, "queries": 8}
    races = pltpu.InterpretParams(detect_races=True, random_seed=0)
    scorer = functools.partial(scoring_tpu.block_scores, interpret=races)
    want = scores(selection.block_scores, EXACT, **sizes)
    np.testing.assert_allclose(scores(scorer, EXACT, **sizes), want, atol=2e-6)

    kernel = scoring_tpu._scoring_kernel

    def careless(first_query, q, segment, key_sets, scores_ref, *scratch, **static):
        kernel(first_query, q, segment, key_sets, WithoutZeros(scores_ref), *scratch, **static)

    monkeypatch.setattr(scoring_tpu, "_scoring_kernel", careless)
    assert np.isnan(scores(scorer, EXACT, **sizes)).any()


def test_rows_too_long_for_its_memory_are_refused():
    shape = (1, 2**22, 1, 128)
    reason = scoring_tpu.unsupported(shape, shape, jnp.bfloat16, EXACT, False)
    assert reason.startswith("4194304 tokens: the TPU scoring kernel holds the pooled keys of about 1")
    assert scoring_tpu.unsupported((1, 2**20, 1, 128), (1, 2**20, 1, 128), jnp.bfloat16, EXACT, False) is None
