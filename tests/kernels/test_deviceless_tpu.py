"""The TPU kernels lower for chips that are not there, at the sizes that they are for."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from kernels import deviceless, deviceless_tpu
from kernels.sparse_attention.arg_specs import SPECS

pytestmark = pytest.mark.timeout(300)

KERNELS = {
    "forward": ["block_sparse_forward"],
    "backward": ["block_sparse_dq", "block_sparse_dkv"],
    "scores": ["block_scores"],
}


@pytest.mark.parametrize("kind", ["v5e", "v6e"])
@pytest.mark.parametrize("call", KERNELS)
def test_lowers_at_128k_tokens(call, kind):
    fn, structs = deviceless_tpu.calls(SPECS["minicpm4-8b-128k"])[call]
    text = deviceless.lowered(fn, *structs, kind=kind).as_text()
    assert text.count("@tpu_custom_call") == len(KERNELS[call])
    assert all(f'kernel_name = "{name}"' in text for name in KERNELS[call])


def test_lowering_refuses_what_the_chip_cannot_tile():
    """The check can fail: blocks of three rows are no multiple of eight."""

    def copy(x_ref, y_ref):
        y_ref[...] = x_ref[...]

    spec = pl.BlockSpec((3, 128), lambda i: (i, 0))
    call = functools.partial(pl.pallas_call, copy, grid=(4,), in_specs=[spec], out_specs=spec)
    struct = jax.ShapeDtypeStruct((12, 128), jnp.float32)
    with pytest.raises(ValueError, match="divisible by 8"):
        deviceless.lowered(lambda x: call(out_shape=struct)(x), struct, kind="v5e")


@pytest.mark.parametrize("ask", [deviceless.lowered, deviceless.compiled_tpu])
def test_an_unknown_chip_is_named(ask):
    with pytest.raises(ValueError, match=r"chip 'v99' is not .* use one of v5e"):
        ask(jnp.sin, jax.ShapeDtypeStruct((8,), jnp.float32), kind="v99")


def test_finds_kernels_in_compiled_programs():
    hlo = (
        '  %block_sparse_dq.1 = bf16[2]{0} custom-call(%a), custom_call_target="tpu_custom_call", backend_config='
        '{"scoped_memory_configs":[{"memory_space":"1","offset":"0","size":"99"}],"custom_call_config":{"body":"T"},'
        '"used_scoped_memory_configs":[{"memory_space":"1","offset":"0","size":"554000"}]}\n'
        '  %other = f32[1]{0} custom-call(%b), custom_call_target="Sharding"\n'
    )
    assert deviceless_tpu._KERNEL.findall(hlo) == [("block_sparse_dq", "554000")]
