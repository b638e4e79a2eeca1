"""How much memory training through sparse attention takes, from the compiled program; nothing is computed.

Command: `python -m kernels.sparse_attention.memory` prints the table of the README for this process's device.
"""

import dataclasses

import jax
import jax.numpy as jnp

from kernels.sparse_attention import api
from kernels.sparse_attention.arg_specs import SPECS, ArgSpec

MIB = 2**20


def operand_bytes(spec: ArgSpec) -> int:
    """Bytes of q, k, v, o and of their gradients."""
    q, k, v, _ = spec.structs()
    return int(2 * q.dtype.itemsize * (2 * q.size + k.size + v.size))


def training_bytes(spec: ArgSpec) -> int:
    """Bytes that selection, attention and their gradients need in all: arguments, results and all in between."""
    q, k, v, _ = spec.structs()

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array) -> jax.Array:
        o_BTHh = api.sparse_attention(q, k, v, spec.selection)
        return jnp.vdot(o_BTHh.astype(jnp.float32), do.astype(jnp.float32))

    memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v, q).compile().memory_analysis()
    assert memory is not None  # every backend that compiles ahead of time has one
    return int(memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes)


def main() -> None:
    """Prints bytes and their ratio at 4K to 32K tokens."""
    print("| shape | T | q, k, v, o and gradients, MiB | all, MiB | ratio |\n|---|---|---|---|---|")
    for name in ("small-4k", "minicpm4-0.5b-32k", "minicpm4-8b-8k"):
        for T in (4096, 8192, 16384, 32768):
            spec = dataclasses.replace(SPECS[name], T=T)
            operands, used = operand_bytes(spec), training_bytes(spec)
            family = name.rpartition("-")[0]
            print(f"| {family} | {T} | {operands / MIB:.0f} | {used / MIB:.0f} | {used / operands:.2f} |", flush=True)


if __name__ == "__main__":
    main()
