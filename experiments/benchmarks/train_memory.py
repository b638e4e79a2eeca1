"""Memory of a training step, from its compiled program on abstract shapes: nothing is allocated, nothing trained.

The state is exact. Temporaries are what the program of this machine's backend asks for. Where that is a CPU, the step
is compiled as a GPU would run it (the batch at once, layers in a loop, a GPU's chunks of logits), with a stand-in for
flash attention that keeps what flash attention keeps: the CPU has no such program. Then temporaries are an upper bound
for a GPU's: on a CPU, XLA computes bfloat16 products in float32, and fuses less.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from experiments.benchmarks.train_shapes import Shape
from experiments.benchmarks.train_step_ours import random_rows
from models import attention
from scaling import mesh
from scaling.accounting import parameter_counts
from scaling.jobs import group_of_one
from scaling.optimizers import hyper
from scaling.run import dispatch_for, first_state

H200_BYTES = 141e9
# how layers are kept for the backward pass, and whether logits are chunked
VARIANTS: tuple[tuple[Literal["none", "block"], bool], ...] = (("none", False), ("none", True), ("block", True))


@jax.custom_vjp
def _stand_in(q_BHTh: jax.Array, k_BKTh: jax.Array, v_BKTh: jax.Array) -> jax.Array:
    """Flash attention's shapes and none of its values."""
    return q_BHTh + jnp.repeat(k_BKTh + v_BKTh, q_BHTh.shape[1] // k_BKTh.shape[1], axis=1)


def _kept(*qkv: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out_BHTh = _stand_in(*qkv)
    return out_BHTh, (*qkv, out_BHTh, out_BHTh[..., 0].astype(jnp.float32))  # the last: log of softmax's sum


def _gradients(kept: tuple[jax.Array, ...], d_BHTh: jax.Array) -> tuple[jax.Array, ...]:
    q, k, v, out, log_sum_BHT = kept
    d_q = d_BHTh * out * log_sum_BHT[..., None].astype(out.dtype)
    d_BKTh = (d_BHTh * q).reshape(*k.shape[:2], -1, *k.shape[2:]).sum(axis=2)
    return d_q, d_BKTh * k, d_BKTh * v


_stand_in.defvjp(_kept, _gradients)


@contextlib.contextmanager
def _flash_attention_of_shapes() -> Iterator[None]:
    true = attention.IMPLEMENTATIONS["cudnn"]
    attention.IMPLEMENTATIONS["cudnn"] = lambda q, k, v, visible: _stand_in(q, k, v)
    try:
        yield
    finally:
        attention.IMPLEMENTATIONS["cudnn"] = true


def analyse(shape: Shape, remat: Literal["none", "block"], chunked: bool) -> dict[str, Any]:
    """Bytes of one device's training step, the whole batch on it.

    Returns:
        parameters, optimizer (its state), temporary, peak (arguments, results and temporaries together); and `how`,
        the execution.
    """
    config = shape.run_config()
    backend = jax.default_backend()
    asked = dataclasses.replace(shape.execution, devices=1, steps_per_dispatch=1, remat=remat)
    execution = mesh.resolve(asked, config.data, config.model, "gpu" if backend == "cpu" else backend)
    if not chunked:
        execution = dataclasses.replace(execution, loss_chunk=0)
    alone = jax.eval_shape(lambda: first_state(config, execution))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((execution.runs, *x.shape), x.dtype), alone)
    scalars = hyper(config.optimizer, config.model, np.zeros(1))
    *inputs, counts = group_of_one(random_rows(shape, 1), scalars, 1, execution)
    with _flash_attention_of_shapes() if backend == "cpu" else contextlib.nullcontext():
        dispatch = dispatch_for(config, execution)
        step = jax.jit(lambda state, rows, scalars: dispatch(state, rows, scalars, counts), donate_argnums=0)
        found: Any = step.lower(state, *inputs).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "parameters": _size(alone.params),
        "optimizer": _size(alone.opt_state),
        "temporary": found.temp_size_in_bytes,
        "peak": held + found.temp_size_in_bytes,
        "how": execution.fingerprint(),
    }


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure(shape: Shape) -> dict[str, Any]:
    """The figures of every variant of one shape."""
    counts = parameter_counts(shape.model)
    logits = 4 * shape.batch_size * shape.sequence_length * shape.model.vocab_size
    variants = [{"remat": remat, "chunked": chunked, **analyse(shape, remat, chunked)} for remat, chunked in VARIANTS]
    sizes = {"non_embedding": counts.non_embedding, "total": counts.total, "float32_logits": logits}
    return dataclasses.asdict(shape) | sizes | {"variants": variants}


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The figures of all shapes, as people read them."""
    titles = "size", "parameters", "rows x T", "state", "recomputed", "logits", "temporaries", "peak", "of an H200"
    view = Table(*titles)
    for name, result in results.items():
        for variant in result["variants"]:
            chunk = variant["how"]["loss_chunk"]
            state = variant["parameters"] + variant["optimizer"]
            view.add_row(
                name,
                f"{result['total'] / 1e6:,.2f}M",
                f"{result['batch_size']} x {result['sequence_length']}",
                _gib(state),
                {"none": "nothing", "block": "blocks"}[variant["remat"]],
                f"{chunk} at a time" if chunk else f"all {_gib(result['float32_logits'])}",
                _gib(variant["temporary"]),
                _gib(variant["peak"]),
                f"{variant['peak'] / H200_BYTES:.0%}",
            )
        view.add_section()
    return view


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
