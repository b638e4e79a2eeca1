"""The TPU gradients: what the shared suite leaves out, and the copies of both kernels in the TPU interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import REFERENCE, Case, Runner, assert_close, check, results
from jax.experimental.pallas import tpu as pltpu
from tpu_interpreter import PLAIN, RACES, stream_through_one_slot, wait_for_all_but_the_second

from kernels.sparse_attention import pallas_tpu, pallas_tpu_backward, tpu_tiles

pytestmark = pytest.mark.timeout(300)

GRADIENTS = ("dq", "dk", "dv")
SMALL = Case(T=71, G=32, n=2, documents=2)  # 18 tiles of 4 tokens, two blocks
STEPS = Case(T=193, G=32, n=5, documents=2)  # of four blocks three are seen: two steps in dQ


def gradients(case, runner):
    """Of the backward kernels alone: what they need of the forward pass is the reference's."""
    x, forward = case.inputs(), results(case, REFERENCE)
    o, lse = jnp.asarray(forward["o"]), jnp.asarray(forward["lse"])
    delta = jnp.einsum("bthd,bthd->bht", x.do, o) - jnp.where(jnp.isinf(lse), 0.0, x.dlse)
    static = {"block": case.block, "scale": case.h**-0.5, "interpret": runner.interpret()}
    backward = jax.jit(lambda *arrays: pallas_tpu_backward.backward(*arrays, **static))
    got = backward(x.q, x.k, x.v, x.ids, x.segments, o, lse, x.do, delta)
    return dict(zip(GRADIENTS, map(np.asarray, got), strict=True)), {name: forward[name] for name in GRADIENTS}


def test_lists_of_tiles_longer_than_a_window(monkeypatch):
    """Blocks seen by 25 tiles, 8 pairs at a time: lists start and end anywhere in a window."""
    monkeypatch.setattr(pallas_tpu_backward, "WINDOW", (2, 4))
    monkeypatch.setattr(pallas_tpu_backward, "PAIRS", 8)
    check(Case(T=200, G=16, K=2), Runner("pallas_tpu", "float32", 2e-5))


@pytest.mark.slow
def test_sixteen_bits():
    check(Case(T=100, G=8, n=2), Runner("pallas_tpu", "bfloat16", 2e-2))


@pytest.fixture
def _reset():
    yield
    pltpu.reset_tpu_interpret_mode_state()


@pytest.mark.usefixtures("_reset")
def test_copies_do_not_race():
    assert_close(*gradients(STEPS, RACES), RACES.tolerance)


@pytest.mark.usefixtures("_reset")
def test_the_interpreter_finds_a_dropped_wait(monkeypatch):
    """V in dQ, the gradient of o in dK and dV, are read before they are there: they are NaN still."""
    monkeypatch.setattr(tpu_tiles, "wait", wait_for_all_but_the_second)
    got, _ = gradients(SMALL, PLAIN)
    assert all(np.isnan(got[name]).any() for name in GRADIENTS)


@pytest.mark.slow
@pytest.mark.usefixtures("_reset")
def test_the_interpreter_finds_pairs_used_before_they_are_there(monkeypatch):
    monkeypatch.setattr(pallas_tpu_backward, "wait", lambda copies: None)
    with pytest.raises(Exception, match=r"[Oo]ut-of-bounds"):
        gradients(SMALL, PLAIN)


@pytest.mark.usefixtures("_reset")
@pytest.mark.parametrize("module", [pytest.param(pallas_tpu, marks=pytest.mark.slow), pallas_tpu_backward])
def test_race_detection_finds_a_slot_filled_too_early(module, monkeypatch):
    """In dQ, which streams keys as the forward pass does, and in dK and dV, which stream tiles."""
    monkeypatch.setattr(module, "stream", stream_through_one_slot)
    with pytest.raises(Exception, match=r"[Rr]ace"):
        gradients(STEPS, RACES)
