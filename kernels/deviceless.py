"""Lower and compile kernels for chips that are not there: what a machine without an accelerator can still check.

Lowering needs jax alone and finds wrong tilings, unsupported operations and bad layouts. Compiling needs the chip's
compiler as an optional wheel (`libtpu`; the CUDA plugin with ptxas) and finds memory that does not fit. Neither says
anything about results or speed.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies

# Chip: its device kind as jax names it, and its platform.
CHIPS = {
    "v5e": ("TPU v5 lite", "tpu"),
    "v6e": ("TPU v6 lite", "tpu"),
    "v5p": ("TPU v5p", "tpu"),
    "h200": ("NVIDIA H200", "gpu"),
    "b200": ("NVIDIA B200", "gpu"),
}
# The smallest slice of a chip's kind that libtpu describes.
TPU_TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2", "v5p": "v5p:2x2x1"}


def abstract_device(kind: str) -> jax.sharding.AbstractDevice:
    """The device that a chip's short name stands for.

    Raises:
        ValueError: the chip is not one of `CHIPS`.
    """
    if kind not in CHIPS:
        raise ValueError(f"chip {kind!r} is not known: use one of {', '.join(CHIPS)}")
    device_kind, platform = CHIPS[kind]
    return jax.sharding.AbstractDevice(
        device_kind=device_kind, num_cores=1 if platform == "tpu" else None, platform=platform
    )


def lowered(fn: Callable[..., Any], *structs: Any, kind: str) -> jax.stages.Lowered:
    """Lowers `fn` at the shapes of `structs` for a chip, without the chip and without its compiler.

    Args:
        fn: a function of arrays.
        structs: its arguments, pytrees of `jax.ShapeDtypeStruct`.
        kind: one of `CHIPS`.
    """
    device = abstract_device(kind)
    platform = "cuda" if device.platform == "gpu" else "tpu"
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        result: jax.stages.Lowered = jax.jit(fn).trace(*structs).lower(lowering_platforms=(platform,))
    return result


def compiled_tpu(fn: Callable[..., Any], *structs: Any, kind: str) -> jax.stages.Compiled:
    """Compiles `fn` with the real TPU compiler; errors of Mosaic and memory that does not fit raise here.

    Needs the `libtpu` wheel, and the environment variable TPU_SKIP_MDS_QUERY=1 where no TPU host answers.

    Args:
        fn: a function of arrays.
        structs: its arguments, pytrees of `jax.ShapeDtypeStruct`.
        kind: one of `TPU_TOPOLOGIES`.
    """
    if kind not in TPU_TOPOLOGIES:
        raise ValueError(f"chip {kind!r} is not a TPU that can be compiled for: use one of {', '.join(TPU_TOPOLOGIES)}")
    topology = topologies.get_topology_desc(topology_name=TPU_TOPOLOGIES[kind], platform="tpu")
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), structs)
    return lowered(fn, *placed, kind=kind).compile()
