"""Dispatch, the dense path, and what wrong arguments are told."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case

from kernels.sparse_attention import api, dense
from kernels.sparse_attention.arg_specs import SPECS
from kernels.sparse_attention.config import SelectionConfig, num_blocks

pytestmark = pytest.mark.timeout(300)

CONFIG = SelectionConfig(block=16, kernel=8, stride=4, blocks=3, init_blocks=1, local_blocks=1, dense_len=0)
CASE = Case(T=100, K=2, G=2, h=8, block=16)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The process computes on a GPU, whose kernel takes heads of 64 only."""

    def unsupported(q_shape, *_):
        return None if q_shape[-1] == 64 else f"h = {q_shape[-1]}: it has kernels for 64"

    kernels = api.AttentionKernels(None, None, unsupported)
    monkeypatch.setattr(api, "_platform", lambda: "gpu")
    monkeypatch.setattr(api, "_attention_kernels", lambda name: kernels)
    api._warn_once.cache_clear()


def resolve(backend, h):
    return api.resolve(backend, (1, 64, 4, h), (1, 64, 2, h), jnp.bfloat16, 64, False)


def test_auto_takes_the_kernel_of_the_chip(on_a_gpu):
    assert resolve("auto", 64) == "pallas_gpu"


def test_auto_falls_back_with_one_warning_per_reason(on_a_gpu):
    with pytest.warns(api.KernelFallbackWarning, match="xla is used: h = 32: it has kernels for 64"):
        assert resolve("auto", 32) == "xla"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("auto", 32) == "xla"
    with pytest.warns(api.KernelFallbackWarning, match="h = 16"):
        resolve("auto", 16)


def test_a_named_kernel_that_cannot_run_is_an_error(on_a_gpu):
    with pytest.raises(ValueError, match="pallas_gpu cannot run this sparse attention: h = 32: it has kernels for 64"):
        resolve("pallas_gpu", 32)


def test_on_a_cpu_auto_is_xla_without_a_word():
    assert resolve("auto", 24) == "xla"
    assert resolve("reference", 24) == "reference"


@pytest.mark.parametrize("backend", ["pallas_gpu", "pallas_tpu"])
def test_a_kernel_of_another_chip_is_an_error_that_names_the_chip(backend):
    x = Case(T=64, G=16, dtype="bfloat16").inputs()
    with pytest.raises(ValueError, match=f"{backend} runs on a .PU, and this process computes on a cpu"):
        api.block_sparse_attention(x.q, x.k, x.v, x.ids, backend=backend)
    with pytest.raises(ValueError, match=f"{backend} runs on a .PU, and this process computes on a cpu"):
        api.select_blocks(x.q, x.k, SelectionConfig(), backend=backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": jnp.zeros((1, 2, 99, 3), jnp.int32)}, r"must cover every token, \[B, K, T, n\] = \[1, 2, 100, n\]"),
        ({"ids": jnp.zeros((1, 2, 100, 3))}, "ids are float32: they must be integers"),
        ({"ids": jnp.full((1, 2, 100, 3), 7)}, "ids hold 7: a row of 100 tokens has blocks 0 to 6 of 16"),
        ({"ids": jnp.full((1, 2, 100, 3), -2)}, "ids hold -2"),
        ({"k": jnp.zeros((1, 100, 3, 8))}, "4 query heads are not a multiple of 3 key-value heads"),
        ({"k": jnp.zeros((1, 90, 2, 8))}, "they may differ in the number of heads alone"),
        ({"q": jnp.zeros((100, 4, 8))}, r"they must be \[B, T, H, h\]"),
        ({"v": jnp.zeros((1, 100, 2, 4))}, "v has shape"),
        ({"segments": jnp.zeros((1, 4), jnp.int32)}, r"segments have shape \(1, 4\)"),
        ({"block": 0}, "block 0"),
        ({"backend": "triton"}, "backend 'triton': use one of auto, reference, xla, pallas_gpu, pallas_tpu"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    x = CASE.inputs()._asdict() | {"block": 16, "backend": "xla"} | change
    with pytest.raises(ValueError, match=message):
        api.block_sparse_attention(
            x["q"], x["k"], x["v"], x["ids"], block=x["block"], segments_BT=x["segments"], backend=x["backend"]
        )


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_traced_ids_out_of_range_are_padding(backend):
    x = CASE.inputs()

    @jax.jit
    def attend(ids):
        return api.block_sparse_attention(x.q, x.k, x.v, ids, block=16, backend=backend)

    wild = jnp.where(x.ids < 0, jnp.asarray([99, -7, -1]), x.ids)
    for got, want in zip(attend(wild), attend(x.ids), strict=True):
        assert (got == want).all()


@pytest.mark.parametrize("documents", [0, 3])
@pytest.mark.parametrize("T", [1, 200])
def test_short_rows_are_dense(T, documents):
    """Results and gradients of `dense_len` = T against all blocks selected, by the reference."""
    case = dataclasses.replace(CASE, T=T, documents=documents)
    x, N = case.inputs(), num_blocks(T, 16)
    ids = jnp.broadcast_to(jnp.arange(N), (1, 2, T, N))
    config = dataclasses.replace(CONFIG, dense_len=T)

    def short(q, k, v):
        return api.sparse_attention(q, k, v, config, segments_BT=x.segments, backend="xla")

    def full(q, k, v):
        return api.block_sparse_attention(q, k, v, ids, block=16, segments_BT=x.segments, backend="reference")[0]

    (got, pull_got), (want, pull_want) = (jax.vjp(f, x.q, x.k, x.v) for f in (short, full))
    np.testing.assert_allclose(got, want, atol=1e-5)
    for dx, dx_want in zip(pull_got(x.do), pull_want(x.do), strict=True):
        np.testing.assert_allclose(dx, dx_want, atol=2e-5)


def test_longer_rows_are_selected_and_then_attended():
    x = CASE.inputs()
    ids = api.select_blocks(x.q, x.k, CONFIG)
    assert (ids[0, 0, -1] >= 0).sum() == 3 < num_blocks(100, 16)
    want, _ = api.block_sparse_attention(x.q, x.k, x.v, ids, block=16, backend="reference")
    np.testing.assert_allclose(api.sparse_attention(x.q, x.k, x.v, CONFIG), want, atol=1e-6)


def test_dense_memory_is_linear_in_the_length():
    def loss(q, k, v, do):
        return jnp.vdot(dense.attention(q, k, v, None), do)

    for T in (1024, 4096):
        q, kv = (jax.ShapeDtypeStruct((1, T, heads, 64), jnp.float32) for heads in (4, 1))
        memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, q).compile().memory_analysis()
        operands = 4 * 2 * (2 * q.size + 2 * kv.size)
        used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        assert used < 4 * operands


@pytest.mark.parametrize("name", SPECS)
def test_named_shapes_have_the_ids_that_selection_gives(name):
    q, k, _, ids = SPECS[name].structs()
    chosen = jax.eval_shape(lambda q, k: api.select_blocks(q, k, SPECS[name].selection, backend="xla"), q, k)
    assert (chosen.shape, chosen.dtype) == (ids.shape, ids.dtype)
