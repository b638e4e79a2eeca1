"""The Hopper kernels in the GPU interpreter, which looks for races; a bug that it must catch; lowering at full size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, assert_close
from gpu_interpreter import GPU, RACES, Careless, reset

from kernels import deviceless, deviceless_gpu
from kernels.sparse_attention import api, hopper, hopper_ring, pallas_gpu, reference
from kernels.sparse_attention.arg_specs import SPECS

pytestmark = pytest.mark.timeout(300)


def forward(case):
    """(o, lse) of the kernel, and what they should be, float32."""
    x = dataclasses.replace(case, dtype="bfloat16").inputs()
    got = GPU.attention(case.block)(x.q, x.k, x.v, x.ids, x.segments)
    q, k, v = (a.astype(jnp.float32) for a in (x.q, x.k, x.v))
    want = reference.attention(q, k, v, x.ids, x.segments, block=case.block, scale=case.h**-0.5)
    return (dict(zip(("o", "lse"), (np.asarray(a, np.float32) for a in pair), strict=True)) for pair in (got, want))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(T=65, G=16, n=2), id="two tiles of four tokens share a union, odd length"),
        pytest.param(Case(T=35, G=1, K=2, n=1), id="one tile, half of it padding"),
        pytest.param(Case(T=130, G=6, block=128, n=2, documents=2), id="padded group, two steps a block, documents"),
    ],
)
def test_forward_without_races(monkeypatch, case):
    """With so few stages that these short rows go around the ring."""
    monkeypatch.setattr(hopper_ring, "STAGES", 2)
    assert_close(*forward(case), GPU.tolerance)


def test_a_dropped_wait_is_caught(monkeypatch):
    """Of values that are still on their way: the plain interpreter would not notice."""
    monkeypatch.setattr(pallas_gpu, "plgpu", Careless(hopper_ring.STAGES))
    x = Case(T=8, G=16, n=1, dtype="bfloat16").inputs()
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
            jax.block_until_ready(GPU.attention(64)(x.q, x.k, x.v, x.ids, None))
    finally:
        reset()


@pytest.mark.parametrize("what", ["forward", "backward", "scores"])
@pytest.mark.parametrize("name", ["minicpm4-8b-128k", pytest.param("wide-blocks-128k", marks=pytest.mark.slow)])
@pytest.mark.parametrize("chip", ["h200", "b200"])
def test_lowers_at_full_size(chip, name, what):
    fn, structs = deviceless_gpu.calls(SPECS[name], segmented=name == "wide-blocks-128k")[what]
    text = deviceless.lowered(fn, *structs, kind=chip).as_text()
    assert text.count("mosaic_gpu") >= {"forward": 1, "backward": 3, "scores": 2}[what]


@pytest.mark.parametrize("group", [1, 2, 3, 5, 12, 16, 32, 64])
def test_rows_and_back(group):
    """Padding neither moves nor invents anything; a mask's bits suffice for the tiles that share one."""
    tiling = hopper.Tiling(length=13, kv_heads=2, group=group)
    x = jnp.arange(2 * 13 * 2 * group * 3.0).reshape(2, 13, 2 * group, 3)
    rows = tiling.rows(x, fill=-1)
    assert rows.shape[2] % (tiling.workers * hopper.ROWS) == 0
    assert (tiling.heads(rows) == x).all()
    assert (rows >= 0).sum() == x.size
    assert rows[1, 1, tiling.padded_group * 4 + group - 1, 2] == x[1, 4, 2 * group - 1, 2]
    assert tiling.workers * tiling.tokens <= 32


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"h": 96}, "head size 96: the Hopper kernels have 64 and 128"),
        ({"dtype": "float32"}, "float32: the Hopper kernels compute in bfloat16 and float16"),
        ({"block": 32}, "block 32: the Hopper kernels have multiples of 64"),
        ({"G": 65}, "65 query heads of a kv-head: the Hopper kernels have up to 64"),
    ],
)
def test_what_it_cannot_run_is_named_with_what_it_can(changes, reason):
    case = dataclasses.replace(Case(T=4, dtype="bfloat16"), **changes)
    x = case.inputs()
    with pytest.raises(ValueError, match=f"pallas_gpu cannot run this sparse attention: {reason}"):
        api.block_sparse_attention(*x[:4], block=case.block, backend="pallas_gpu", interpret=RACES)


def test_other_gpus_are_told_why(monkeypatch):
    class Blackwell:
        compute_capability = "10.0"

    monkeypatch.setattr(jax, "devices", lambda: [Blackwell()])
    reason = pallas_gpu.unsupported((1, 64, 16, 64), (1, 64, 1, 64), jnp.bfloat16, 64, False)
    assert reason == "a GPU of compute capability 10.0: the Hopper kernels need 9.0, for wgmma"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(deviceless_gpu.missing() is not None, reason=str(deviceless_gpu.missing()))
@pytest.mark.parametrize("what", ["forward", "backward", "scores"])
@pytest.mark.parametrize("segmented", [False, True])
def test_compiles_for_the_chip_without_spills(what, segmented):
    fn, structs = deviceless_gpu.calls(SPECS["minicpm4-8b-8k"], segmented)[what]
    _, reports = deviceless_gpu.compiled_gpu(fn, *structs)
    assert len(reports) == {"forward": 1, "backward": 3, "scores": 2}[what]
    for report in reports:
        assert report.spill_bytes == 0, report
        assert report.shared_bytes < 232_448 - 1024, report  # of a thread block; barriers are beside
