"""The TPU kernels of sparse attention, compiled for chips that are not there: their rows of `compile_all.py`'s table.

Needs the optional wheel `libtpu`; see deviceless.py.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from kernels import deviceless
from kernels.sparse_attention import pallas_tpu, pallas_tpu_backward, scoring_tpu
from kernels.sparse_attention.arg_specs import SPECS, ArgSpec
from kernels.sparse_attention.selection import num_pooled

STRETCH = 4096  # queries whose block scores exist at a time

Call = tuple[Callable[..., Any], tuple[Any, ...]]  # a function, and the shapes of its arguments

# A Mosaic kernel in compiled HLO: its name, and the VMEM that it takes.
_KERNEL = re.compile(
    r"%(\w+?)(?:\.\d+)? = .*custom_call_target=\"tpu_custom_call\""
    r".*\"used_scoped_memory_configs\":\[\{[^}]*\"size\":\"(\d+)\""
)


def calls(spec: ArgSpec) -> dict[str, Call]:
    """Forward pass, backward pass and block scores at the shapes of a spec."""
    q, k, v, ids = spec.structs()
    row = jax.ShapeDtypeStruct((spec.B, spec.H, spec.T), jnp.float32)
    selection = spec.selection
    static = {"block": selection.block, "scale": spec.h**-0.5}
    forward = functools.partial(pallas_tpu.forward, **static)
    backward = functools.partial(pallas_tpu_backward.backward, **static)

    def scores(q_BTHh: jax.Array, pooled_BPKh: jax.Array, first_query: jax.Array) -> jax.Array:
        return scoring_tpu.block_scores(q_BTHh, pooled_BPKh, None, first_query, selection, spec.T)

    stretch = jax.ShapeDtypeStruct((spec.B, min(spec.T, STRETCH), spec.H, spec.h), q.dtype)
    P = num_pooled(spec.T, selection.kernel, selection.stride)
    pooled = jax.ShapeDtypeStruct((spec.B, P, spec.K, spec.h), k.dtype)
    return {
        "forward": (forward, (q, k, v, ids, None)),
        "backward": (backward, (q, k, v, ids, None, q, row, q, row)),
        "scores": (scores, (stretch, pooled, jax.ShapeDtypeStruct((), jnp.int32))),
    }


def tpu_rows(name: str = "minicpm4-8b-128k") -> Iterator[dict[str, str]]:
    """Compiles the kernels for every TPU chip, and gives a row for each as it is ready.

    "temp MiB" is of the whole pass that a kernel is part of: tables, layouts and what its kernels hand each other.

    Args:
        name: one of `arg_specs.SPECS`.
    """
    for chip in deviceless.TPU_TOPOLOGIES:
        for fn, structs in calls(SPECS[name]).values():
            compiled = deviceless.compiled_tpu(fn, *structs, kind=chip)
            memory: Any = compiled.memory_analysis()
            for kernel, vmem in _KERNEL.findall(compiled.as_text() or ""):
                yield {
                    "kernel": f"pallas_tpu {kernel}",
                    "chip": chip,
                    "shape": name,
                    "SMEM / VMEM": f"{int(vmem) // 2**10} KiB VMEM",
                    "temp MiB": f"{memory.temp_size_in_bytes / 2**20:.0f}",
                }
