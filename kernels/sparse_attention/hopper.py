"""What the Hopper kernels share: query tiles of 64 rows, shared-memory layouts, masks, products on tensor cores.

A query tile is 64 rows, the least that Hopper's tensor cores take: 64 / G neighbouring tokens of the G heads that share
a kv-head, token by token. Groups are padded with heads of zeros to a power of two, and to 2 at least: with G = 1 a tile
of 64 rows would hold more tokens than a member mask has bits, so half of its rows are padding there.

Keys are looked at 64 at a time, whatever the block: a block is one step or several.

Axis letters: README.md; R the rows of queries.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.sparse_attention.tables import MAX_TILE

ROWS = 64
KEYS = 64
HOPPER = "9.0"
HEAD_SIZES = (64, 128)
DTYPES = ("bfloat16", "float16")
LOG2E = math.log2(math.e)

GRID = ("batch", "kv_head", "tiles")  # the last varies fastest: neighbours read the same keys
_SWIZZLE = 128  # bytes, 64 elements of 16 bits
_OPERAND = (
    plgpu.TilingTransform((8, 8 * _SWIZZLE // 16)),  # type: ignore[abstract]
    plgpu.SwizzleTransform(_SWIZZLE),  # type: ignore[abstract]
)
TILE = plgpu.Layout.WGMMA
PER_ROW = plgpu.Layout.WGMMA.reduce(1)
PER_COLUMN = plgpu.Layout.WGMMA.reduce(0)


def unsupported(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any, block: int, has_segments: bool
) -> str | None:
    """Why these kernels cannot run a case, as a sentence that names what they can; None where they can."""
    del has_segments  # all of them know documents
    group, head = q_shape[2] // k_shape[2], q_shape[3]
    if block % KEYS:
        return f"block {block}: the Hopper kernels have multiples of {KEYS}"
    if group > ROWS:
        return f"{group} query heads of a kv-head: the Hopper kernels have up to {ROWS}"
    return unsupported_operands(head, dtype)


def unsupported_operands(head: int, dtype: Any) -> str | None:
    """Why this device's tensor cores cannot take such queries and keys; None where they can."""
    capability = getattr(jax.devices()[0], "compute_capability", HOPPER)  # none where there is an interpreter instead
    if capability != HOPPER:
        return f"a GPU of compute capability {capability}: the Hopper kernels need {HOPPER}, for wgmma"
    if head not in HEAD_SIZES:
        return f"head size {head}: the Hopper kernels have {' and '.join(map(str, HEAD_SIZES))}"
    if jnp.dtype(dtype).name not in DTYPES:
        return f"{jnp.dtype(dtype).name}: the Hopper kernels compute in {' and '.join(DTYPES)}"
    return None


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How the queries of a call lie in tiles.

    Attributes:
        length: T.
        kv_heads: K.
        group: G.
    """

    length: int
    kv_heads: int
    group: int

    @property
    def padded_group(self) -> int:
        """Heads of a kv-head, padding included: a power of two from 2 to 64."""
        return max(2, 1 << (self.group - 1).bit_length())

    @property
    def tokens(self) -> int:
        """Tokens of a tile, 1 to 32."""
        return ROWS // self.padded_group

    @property
    def workers(self) -> int:
        """Tiles that share a union of blocks, a warpgroup each: two, where their tokens fit a member mask."""
        return 2 if 2 * self.tokens <= MAX_TILE else 1

    def rows(self, x_BTHx: jax.Array, fill: float = 0) -> jax.Array:
        """[B, T, H, ...] as rows of queries, [B, K, R, ...], with whole unions of tiles and padded groups."""
        B, T, _, *rest = x_BTHx.shape
        x = x_BTHx.reshape(B, T, self.kv_heads, self.group, *rest)
        more = (0, -T % (self.workers * self.tokens)), (0, 0), (0, self.padded_group - self.group)
        x = jnp.pad(x, [(0, 0), *more, *[(0, 0)] * len(rest)], constant_values=fill)
        return jnp.moveaxis(x, 2, 1).reshape(B, self.kv_heads, -1, *rest)

    def heads(self, x_BKRx: jax.Array) -> jax.Array:
        """The reverse of `rows`: [B, T, H, ...]."""
        B, K, _, *rest = x_BKRx.shape
        x = x_BKRx.reshape(B, K, -1, self.padded_group, *rest)[:, :, : self.length, : self.group]
        return jnp.moveaxis(x, 1, 2).reshape(B, self.length, K * self.group, *rest)

    def members_of(self, members: Any, worker: Any) -> Any:
        """The bits of one worker's tile in the mask of a union."""
        if self.workers == 1:
            return members
        mine = lax.shift_right_logical(members, worker * self.tokens)
        return lax.bitwise_and(mine, jnp.int32((1 << self.tokens) - 1))


def documents(tiling: Tiling, segments_BT: jax.Array | None, block: int) -> tuple[jax.Array, ...]:
    """Documents as the kernels take them: of the rows of queries, [B, R], and of the keys, [B, S]; none for None.

    Keys are padded to whole blocks.
    """
    if segments_BT is None:
        return ()
    of_group = jnp.repeat(segments_BT[..., None], tiling.group, axis=2)
    row_BR = dataclasses.replace(tiling, kv_heads=1).rows(of_group)[:, 0]
    return row_BR, jnp.pad(segments_BT, ((0, 0), (0, -segments_BT.shape[1] % block)))


def at_least_a_step(x_BSKh: jax.Array) -> jax.Array:
    """Keys of a row that is shorter than a step, padded to one: a copy is never larger than what it is of."""
    return jnp.pad(x_BSKh, ((0, 0), (0, max(0, KEYS - x_BSKh.shape[1])), (0, 0), (0, 0)))


def operand(*shape: int, dtype: Any) -> Any:
    """Shared memory that tensor cores read: matrices, [..., rows, columns]."""
    return plgpu.SMEM(shape, dtype, transforms=_OPERAND)


def zeros(columns: int) -> jax.Array:
    """[64, columns] of float32 zeros in registers, laid out as tensor cores accumulate."""
    x: jax.Array = plgpu.layout_cast(jnp.zeros((ROWS, columns), jnp.float32), TILE)
    return x


def per_row(value: float) -> jax.Array:
    """[64] float32 in registers, one for each row of a tile."""
    x_R: jax.Array = plgpu.layout_cast(jnp.full((ROWS,), value, jnp.float32), PER_ROW)
    return x_R


def across(x_R: jax.Array, columns: int) -> jax.Array:
    """[64] to [64, columns], equal along each row."""
    return lax.broadcast_in_dim(x_R, (ROWS, columns), [0])


def down(x_C: jax.Array) -> jax.Array:
    """[columns] to [64, columns], equal along each column."""
    return lax.broadcast_in_dim(x_C, (ROWS, *x_C.shape), [1])


def product(a: Any, b: Any) -> jax.Array:
    """a @ b in float32, of matrices in shared memory, `a` of 64 rows."""

    def into(accumulator: Any) -> Any:
        plgpu.wgmma(accumulator, a, b)
        return accumulator[...]

    x: jax.Array = pl.run_scoped(into, plgpu.WGMMAAccumulatorRef((ROWS, b.shape[1]), jnp.float32))
    return x


def add_product(total: jax.Array, a: jax.Array, b: Any, interpret: Any) -> jax.Array:
    """total + a @ b with `a` in registers and b in shared memory.

    The interpreter knows no such product; there b is read as a value, which its race detector sees all the same.
    """
    if interpret is not None:
        return total + jnp.dot(a, b[...], preferred_element_type=jnp.float32)

    def into(accumulator: Any) -> None:
        plgpu.wgmma(accumulator, a, b)

    x: jax.Array = pl.run_state(into)(plgpu.WGMMAAccumulatorRef.init(total))
    return x


class Mask(NamedTuple):
    """What decides which keys the rows of a query tile see, beside their block.

    Attributes:
        token_R: of each row, counted in the tile.
        first_token: position of the tile's first.
        segment_R: document of each row, or None.
    """

    token_R: jax.Array
    first_token: Any
    segment_R: Any

    @classmethod
    def of(cls, tiling: Tiling, tile: Any, segments_R: Any, layout: Any) -> "Mask":
        """That of a tile; documents are read from shared memory.

        Args:
            tiling: of the call.
            tile: its number.
            segments_R: documents of its rows, or None.
            layout: `PER_ROW`, or `PER_COLUMN` where rows of queries are the columns of a product.
        """
        row_R = plgpu.broadcasted_iota(jnp.int32, (ROWS,), 0, layout=layout)
        token_R = lax.div(row_R, jnp.full_like(row_R, tiling.padded_group))
        segment_R = None if segments_R is None else plgpu.load(segments_R, layout=layout)
        return cls(token_R, tile * tiling.tokens, segment_R)

    def last_visible(self, members: Any) -> jax.Array:
        """[R]: where a row sees the block, its own position, else -1; it sees the keys up to there.

        So membership and causality are one comparison for each score.
        """
        member_R = lax.shift_right_logical(jnp.full_like(self.token_R, members), self.token_R)
        member_R = lax.bitwise_and(member_R, jnp.full_like(member_R, 1))
        return jnp.where(member_R != 0, self.first_token + self.token_R, -1)


def at(ref: Any, index: Any) -> Any:
    """A part of a reference; None of None."""
    return None if ref is None else ref.at[index]
