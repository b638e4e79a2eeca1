"""The fused block scores of the Hopper kernels in the GPU interpreter, and a bug that its race detection must catch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case
from gpu_interpreter import RACES, Careless, reset

from kernels.sparse_attention import scoring_gpu, selection
from kernels.sparse_attention.config import COARSENING, SelectionConfig

pytestmark = pytest.mark.timeout(600)


def arguments(case, config, first, count):
    """Of `block_scores`, for `count` queries from position `first` of a row."""
    x = case.inputs()
    fine = selection.pool_keys(x.k, config.kernel, config.stride, x.segments)
    coarse = selection.Pooled(None, None)
    if config.normaliser == "coarse":
        coarse = selection.pool_keys(x.k, COARSENING * config.kernel, COARSENING * config.stride, x.segments)
    segments = None
    if x.segments is not None:
        query = x.segments[:, first : first + count]
        segments = selection.ScoreSegments(query, fine.segments_BP, coarse.segments_BP)
    return x.q[:, first : first + count], fine.keys_BPKh, coarse.keys_BPKh, first, config, case.T, segments


@pytest.mark.parametrize(
    ("case", "config", "first", "count"),
    [
        pytest.param(Case(T=300, G=3, K=2, dtype="bfloat16"), SelectionConfig(), 230, 70, id="an odd stretch"),
        pytest.param(
            Case(T=400, G=2, documents=2, dtype="bfloat16"),
            SelectionConfig(normaliser="coarse"),
            336,
            64,
            id="coarse, documents",
        ),
        pytest.param(
            Case(T=200, G=2, dtype="bfloat16"), SelectionConfig(block=128), 0, 64, id="block 128, first queries"
        ),
    ],
)
def test_equals_the_specification_without_races(case, config, first, count):
    given = arguments(case, config, first, count)
    want = selection.block_scores(*given)
    assert 0 < (want > 0).mean() < 1
    got = scoring_gpu.block_scores(*given, interpret=RACES)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_dropped_wait_is_caught(monkeypatch):
    """Of keys that are still on their way."""
    monkeypatch.setattr(scoring_gpu, "plgpu", Careless(scoring_gpu.WINDOWS))
    given = arguments(Case(T=64, dtype="bfloat16"), SelectionConfig(), 0, 64)
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
            jax.block_until_ready(scoring_gpu.block_scores(*given, interpret=RACES))
    finally:
        reset()


@pytest.mark.parametrize(
    ("head", "dtype", "reason"),
    [
        (80, jnp.bfloat16, "head size 80: the Hopper kernels have 64 and 128"),
        (64, jnp.float32, "float32: the Hopper kernels compute in bfloat16 and float16"),
    ],
)
def test_what_it_cannot_run_is_named_with_what_it_can(head, dtype, reason):
    q, k = (1, 64, 2, head), (1, 64, 1, head)
    assert scoring_gpu.unsupported(q, k, dtype, SelectionConfig(), False) == reason


def test_no_pooled_key_no_score():
    q = jnp.ones((2, 10, 4, 64), jnp.bfloat16)
    scores = scoring_gpu.block_scores(q, q[:, :0, :2], None, 0, SelectionConfig(), 10, interpret=RACES)
    assert scores.shape == (2, 2, 10, 1)
    assert not scores.any()
