"""The pieces of a decoder block that mix features only: RMSNorm and SwiGLU, and how matrices are initialised.

Axis letters: models/README.md.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from models.config import ModelConfig


def hidden_matrices(
    config: ModelConfig, key: jax.Array, init_std: ArrayLike, *shapes: tuple[int, int]
) -> list[nnx.Param]:
    """Hidden matrices [inputs, outputs] under muP: normal with standard deviation init_std / sqrt(m).

    m is `config.width_multiplier`; the reading of MiniCPM's table 7 is explained in `models.transformer`. They are cut
    from one draw, because XLA compiles every random draw anew, and slowly.
    """
    std = init_std / math.sqrt(config.width_multiplier)
    ends = np.cumsum([inputs * outputs for inputs, outputs in shapes])
    pieces = jnp.split(std * jax.random.normal(key, (ends[-1],), jnp.float32), ends[:-1])
    return [nnx.Param(piece.reshape(shape)) for piece, shape in zip(pieces, shapes, strict=True)]


def project(x_BTI: jax.Array, weight_IO: nnx.Param) -> jax.Array:
    """x W with W cast to the activations' type: [B, T, I] -> [B, T, O].

    As one product of matrices, B T rows tall: on a CPU its gradient is faster than the three-axis product's.
    """
    B, T, _ = x_BTI.shape
    return (x_BTI.reshape(B * T, -1) @ weight_IO[...].astype(x_BTI.dtype)).reshape(B, T, -1)


# The elementwise parts keep their operands alone for the backward pass and are computed again there: it costs no time,
# and saves the float32 and intermediate copies that would be kept of every layer. Layers run in a scan, across which
# nothing is merged again.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@functools.partial(_recomputed, static_argnums=2)
def _normalised(x_BTD: jax.Array, gain_D: jax.Array, eps: float) -> jax.Array:
    y_BTD = x_BTD.astype(jnp.float32)
    rms_BT1 = jax.lax.rsqrt(jnp.mean(jnp.square(y_BTD), axis=-1, keepdims=True) + eps)
    return (y_BTD * rms_BT1 * gain_D).astype(x_BTD.dtype)


@_recomputed
def _gated(gate_BTF: jax.Array, up_BTF: jax.Array) -> jax.Array:
    return jax.nn.silu(gate_BTF) * up_BTF


class RMSNorm(nnx.Module):
    """x / rms(x) times a learned gain that starts at one; computed in float32 (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, config: ModelConfig):
        self.scale = nnx.Param(jnp.ones(config.d_model, jnp.float32))
        self.eps = config.rms_norm_eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Normalises the last axis and returns the input's type."""
        normalised_BTD: jax.Array = _normalised(x_BTD, self.scale[...], self.eps)
        return normalised_BTD


class SwiGLU(nnx.Module):
    """The gated feed-forward layer, (silu(x W_gate) * x W_up) W_down (Shazeer 2020, eq. 6)."""

    def __init__(self, config: ModelConfig, key: jax.Array, init_std: ArrayLike):
        D, F = config.d_model, config.d_ff
        self.gate, self.up, self.down = hidden_matrices(config, key, init_std, (D, F), (D, F), (F, D))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        return project(_gated(project(x_BTD, self.gate), project(x_BTD, self.up)), self.down)
