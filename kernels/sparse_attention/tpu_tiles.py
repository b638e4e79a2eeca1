"""What the TPU kernels share: how queries lie in tiles and keys in blocks, and how what is needed next is streamed.

A tile is the query rows of some neighbouring tokens and of all heads of their group: `ROWS` of them, about. They lie
head by head and a tile's tokens are a power of two, so that the low bits of a row are its token and no division is
needed. What is one number a row lies along lanes, [1, M]: along sublanes, [M, 1], each would take 512 bytes of memory.

Letters beside the README's: M query rows of a tile, J keys of a step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.sparse_attention.tables import MAX_TILE

ROWS = 128  # one pass of the matrix unit; with more the tokens of a tile would share less of their blocks
LANES = 128
SUBLANES = 8

Ref = Any  # a reference to memory; pallas has no public type for it
Step = jax.Array | int  # a number of a step or of a slot
Interpret = Any  # None or False: compile; True or pltpu.InterpretParams: interpret
PARALLEL_3D = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel"))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Static facts of a call: tokens of a tile, query heads of a group, tokens of a block, and what scales q . k."""

    tile: int
    group: int
    block: int
    scale: float

    @property
    def rows(self) -> int:
        """M."""
        return self.tile * self.group


def geometry_of(q_BTHh: jax.Array, k_BSKh: jax.Array, block: int, scale: float) -> Geometry:
    """The geometry of a call."""
    group = q_BTHh.shape[2] // k_BSKh.shape[2]
    return Geometry(tile_tokens(group), group, block, scale)


def tile_tokens(group: int) -> int:
    """Tokens of a tile: the most that keep it within `ROWS`, but so many that its rows are whole sublanes."""
    tile = MAX_TILE
    while tile > 1 and tile * group > ROWS and tile // 2 * group % SUBLANES == 0:
        tile //= 2
    return tile


def to_tiles(x_BTHh: jax.Array, kv_heads: int, tile: int) -> jax.Array:
    """[B, T, H, h] -> [B, K, Q, M, h], the last tile padded with zeros."""
    B, T, H, h = x_BTHh.shape
    x_BTHh = jnp.pad(x_BTHh, ((0, 0), (0, -T % tile), (0, 0), (0, 0)))
    x_BQtKGh = x_BTHh.reshape(B, -1, tile, kv_heads, H // kv_heads, h)
    x_BKQGth = x_BQtKGh.transpose(0, 3, 1, 4, 2, 5)
    return x_BKQGth.reshape(*x_BKQGth.shape[:3], -1, h)


def from_tiles(x_BKQMh: jax.Array, tile: int, tokens: int) -> jax.Array:
    """[B, K, Q, M, h] -> [B, T, H, h], the padding cut off."""
    B, K, Q, M, h = x_BKQMh.shape
    x_BQtKGh = x_BKQMh.reshape(B, K, Q, M // tile, tile, h).transpose(0, 2, 4, 1, 3, 5)
    return x_BQtKGh.reshape(B, Q * tile, -1, h)[:, :tokens]


def to_lanes(x_BHT: jax.Array, kv_heads: int, tile: int) -> jax.Array:
    """One number a row: [B, H, T] -> [B, K, Q, 1, M]."""
    B, H, T = x_BHT.shape
    x_BKGQt = jnp.pad(x_BHT, ((0, 0), (0, 0), (0, -T % tile))).reshape(B, kv_heads, H // kv_heads, -1, tile)
    x_BKQGt = x_BKGQt.transpose(0, 1, 3, 2, 4)
    return x_BKQGt.reshape(*x_BKQGt.shape[:3], 1, -1)


def from_lanes(x_BKQ1M: jax.Array, tile: int, tokens: int) -> jax.Array:
    """[B, K, Q, 1, M] -> [B, H, T], the padding cut off."""
    B, K, Q, _, M = x_BKQ1M.shape
    x_BKGQt = x_BKQ1M.reshape(B, K, Q, M // tile, tile).transpose(0, 1, 3, 2, 4)
    return x_BKGQt.reshape(B, K * M // tile, Q * tile)[..., :tokens]


def to_blocks(x_BSKh: jax.Array, block: int) -> jax.Array:
    """[B, S, K, h] -> [B, K, N, block, h], the last block padded with zeros."""
    B, S, K, h = x_BSKh.shape
    x_BSKh = jnp.pad(x_BSKh, ((0, 0), (0, -S % block), (0, 0), (0, 0)))
    return x_BSKh.reshape(B, -1, block, K, h).transpose(0, 3, 1, 2, 4)


def from_blocks(x_BKNnh: jax.Array, tokens: int) -> jax.Array:
    """[B, K, N, block, h] -> [B, S, K, h], the padding cut off."""
    B, K, N, n, h = x_BKNnh.shape
    return x_BKNnh.transpose(0, 2, 3, 1, 4).reshape(B, N * n, K, h)[:, :tokens]


def segment_lanes(segments_BT: jax.Array, length: int, copies: int) -> jax.Array:
    """[B, T] -> [B, pieces of `length` tokens, 1, copies * length]; what pads the last piece is masked by position."""
    B, T = segments_BT.shape
    x_BP1l = jnp.pad(segments_BT, ((0, 0), (0, -T % length))).reshape(B, -1, 1, length)
    return jnp.tile(x_BP1l, copies)


def rows_spec(rows: int, width: int) -> pl.BlockSpec:
    """What a program (b, k, i) has of an array [B, K, I, rows, width]."""
    return pl.BlockSpec((None, None, None, rows, width), lambda b, k, i: (b, k, i, 0, 0))


def scalars_spec(width: int) -> pl.BlockSpec:
    """What a program (b, k, i) has of integers [B, K, I, 1, width] that steer it, in SMEM."""
    return pl.BlockSpec((None, None, None, 1, width), lambda b, k, i: (b, k, i, 0, 0), memory_space=pltpu.SMEM)


def in_hbm() -> pl.BlockSpec:
    """An array that programs copy from themselves."""
    return pl.BlockSpec(memory_space=pltpu.HBM)


def start(copies: list[Any]) -> None:
    """Starts copies that `wait` waits for."""
    for copy in copies:
        copy.start()


def wait(copies: list[Any]) -> None:
    """Waits until the copies have landed."""
    for copy in copies:
        copy.wait()


def stream(
    first: Step,
    end: jax.Array,
    fetch: Callable[[Step, Step], list[Any]],
    body: Callable[[jax.Array, jax.Array], None],
) -> None:
    """Calls body(j, slot) for first <= j < end while the copies of step j + 1 fly into the other of two slots.

    Args:
        first: the first step.
        end: one past the last.
        fetch: (j, slot) -> the copies of step j into a slot of the buffers, not started.
        body: computes step j from a slot.
    """

    @pl.when(first < end)
    def _() -> None:
        start(fetch(first, lax.rem(first, 2)))

    @pl.loop(first, end)
    def _(j: jax.Array) -> None:
        slot = lax.rem(j, 2)

        @pl.when(j + 1 < end)
        def _() -> None:
            start(fetch(j + 1, 1 - slot))

        wait(fetch(j, slot))
        body(j, slot)


def dot(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The product over dimension contract[0] of a and contract[1] of b, in float32; float32 inputs are not rounded."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def diagonal(x: jax.Array, axis: int) -> jax.Array:
    """Turns a column [M, 1] into a row [1, M] (axis 0), or a row into a column (axis 1), for any M."""
    M = max(x.shape)
    on_diagonal = lax.broadcasted_iota(jnp.int32, (M, M), 0) == lax.broadcasted_iota(jnp.int32, (M, M), 1)
    return jnp.sum(jnp.where(on_diagonal, x, jnp.zeros_like(x)), axis=axis, keepdims=True)


def tokens_of_rows(geometry: Geometry, axis: int) -> jax.Array:
    """The token, within the tile, of each query row: [M, 1] along axis 0, [1, M] along axis 1."""
    shape = (geometry.rows, 1) if axis == 0 else (1, geometry.rows)
    return lax.broadcasted_iota(jnp.int32, shape, axis) & (geometry.tile - 1)
