"""The Hopper kernels of sparse attention, compiled for a chip that is not there: rows of `compile_all.py`'s table.

Needs the optional wheels `jax-cuda13-plugin` and `jax-cuda13-pjrt` (no GPU, no driver) and `ptxas` on the PATH. What a
compiled program says about itself is true of the chip; whether it is right, or fast, it does not say.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from kernels import deviceless
from kernels.sparse_attention import pallas_gpu, pallas_gpu_backward, scoring_gpu
from kernels.sparse_attention.arg_specs import SPECS, ArgSpec
from kernels.sparse_attention.selection import num_pooled

STRETCH = 4096  # queries whose block scores exist at a time
SPEC_NAMES = ("minicpm4-8b-128k", "wide-blocks-128k", "minicpm4-0.5b-32k")

# What XLA asks of a GPU: facts of the H200 by its data sheet and the CUDA programming guide's table for 9.0.
_H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  clock_rate_ghz: 1.98
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800
  device_memory_size: 151397597184
  memory_bandwidth: 4800000000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""

# For a machine that has no GPU; and ask Mosaic GPU for what ptxas and the kernel's resources say.
_ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "MOSAIC_GPU_DUMP_PTXAS": "1",
    "MOSAIC_GPU_DUMP_RESOURCES": "1",
}


@dataclasses.dataclass(frozen=True)
class KernelReport:
    """What ptxas and Mosaic GPU say of one kernel.

    Attributes:
        name: the kernel's.
        registers: of a thread, at its start.
        spill_bytes: stores and loads of registers that did not fit.
        shared_bytes: shared memory of a thread block, its barriers left out (a few hundred bytes at most).
    """

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int


def missing() -> str | None:
    """What this machine lacks to compile for an H200, as a sentence; None if nothing."""
    if shutil.which("ptxas") is None:
        return "ptxas is not on the PATH: it is part of the CUDA toolkit"
    if importlib.util.find_spec("jax_cuda13_plugin") is None or importlib.util.find_spec("jax_plugins") is None:
        return "the CUDA plugin is not installed: add jax-cuda13-plugin and jax-cuda13-pjrt of jax's version, --no-deps"
    return None


def compiled_gpu(fn: Callable[..., Any], *structs: Any) -> tuple[jax.stages.Compiled, list[KernelReport]]:
    """Compiles `fn` for an H200 with the real compiler, and reports on every Mosaic GPU kernel in it.

    Args:
        fn: a function of arrays.
        structs: its arguments, pytrees of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: the compiler's wheels or ptxas are not there.
    """
    reason = missing()
    if reason is not None:
        raise ValueError(reason)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(_ENVIRONMENT | {"MOSAIC_GPU_DUMP_TO": folder})
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology="1x1x1", target_config=_H200
        )
        sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
        placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), structs)
        compiled = deviceless.lowered(fn, *placed, kind="h200").compile()
        return compiled, _reports(Path(folder))


def _reports(folder: Path) -> list[KernelReport]:
    """From the files NAME_NUMBER.ptxas and NAME_NUMBER.resources.txt of one compilation."""
    shared = {
        path.name.rsplit("_", 1)[0]: int(_number(r"smem_scratch_bytes=(\d+)", path.read_text()))
        for path in folder.glob("*.resources.txt")
    }
    found = []
    for path in sorted(folder.glob("*.ptxas")):
        name, text = path.name.rsplit("_", 1)[0], path.read_text()
        spills = sum(int(_number(rf"(\d+) bytes spill {kind}", text)) for kind in ("stores", "loads"))
        found.append(KernelReport(name, int(_number(r"Used (\d+) registers", text)), spills, shared[name]))
    return found


def _number(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no '{pattern}' in what the compiler said: {text[:200]}")
    return match.group(1)


def calls(spec: ArgSpec, segmented: bool = False) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Forward pass, backward pass and block scores at a spec's shapes: each a function and its arguments."""
    q, k, v, ids = spec.structs()
    segments = jax.ShapeDtypeStruct((spec.B, spec.T), jnp.int32) if segmented else None
    row = jax.ShapeDtypeStruct((spec.B, spec.H, spec.T), jnp.float32)
    selection = spec.selection
    static = {"block": selection.block, "scale": spec.h**-0.5}

    def scores(q_BTHh: jax.Array, pooled_BPKh: jax.Array, first_query: jax.Array) -> jax.Array:
        return scoring_gpu.block_scores(q_BTHh, pooled_BPKh, None, first_query, selection, spec.T)

    stretch = jax.ShapeDtypeStruct((spec.B, min(spec.T, STRETCH), spec.H, spec.h), q.dtype)
    pooled_shape = spec.B, num_pooled(spec.T, selection.kernel, selection.stride), spec.K, spec.h
    return {
        "forward": (functools.partial(pallas_gpu.forward, **static), (q, k, v, ids, segments)),
        "backward": (
            functools.partial(pallas_gpu_backward.backward, **static),
            (q, k, v, ids, segments, q, row, q, row),
        ),
        "scores": (
            scores,
            (stretch, jax.ShapeDtypeStruct(pooled_shape, k.dtype), jax.ShapeDtypeStruct((), jnp.int32)),
        ),
    }


def gpu_rows(names: tuple[str, ...] = SPEC_NAMES) -> Iterator[dict[str, str]]:
    """Compiles the kernels for an H200, and gives a row for each as it is ready; one that is as before is left out.

    "temp MiB" is of the whole pass that a kernel is part of: tables, layouts and what its kernels hand each other.

    Args:
        names: of `arg_specs.SPECS`.
    """
    for name in names:
        for fn, structs in calls(SPECS[name]).values():
            compiled, reports = compiled_gpu(fn, *structs)
            memory: Any = compiled.memory_analysis()
            for report in reports:
                yield {
                    "kernel": f"pallas_gpu {report.name}",
                    "chip": "h200",
                    "shape": name,
                    "registers": str(report.registers),
                    "spills": f"{report.spill_bytes} B",
                    "SMEM / VMEM": f"{report.shared_bytes / 2**10:.0f} KiB SMEM",
                    "temp MiB": f"{memory.temp_size_in_bytes / 2**20:.0f}",
                }
