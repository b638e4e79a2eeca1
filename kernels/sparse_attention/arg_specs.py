"""Named shapes that sparse attention is lowered, compiled and measured at; benchmarks and checks share them.

Imports of this file start no backend.
"""

import dataclasses

import jax
import jax.numpy as jnp

from kernels.sparse_attention.config import SelectionConfig, num_blocks


@dataclasses.dataclass(frozen=True)
class ArgSpec:
    """One set of shapes.

    Attributes:
        B: batch rows.
        T: tokens of a row.
        H: query heads.
        K: key-value heads.
        h: features of a head.
        selection: block size and visible blocks per token.
        dtype: of q, k and v.
    """

    B: int
    T: int
    H: int
    K: int
    h: int
    selection: SelectionConfig
    dtype: str = "bfloat16"

    @property
    def n(self) -> int:
        """Ids per token."""
        return min(self.selection.blocks, num_blocks(self.T, self.selection.block))

    def structs(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Q, k, v and ids without memory."""
        q = jax.ShapeDtypeStruct((self.B, self.T, self.H, self.h), jnp.dtype(self.dtype))
        kv = jax.ShapeDtypeStruct((self.B, self.T, self.K, self.h), jnp.dtype(self.dtype))
        return q, kv, kv, jax.ShapeDtypeStruct((self.B, self.K, self.T, self.n), jnp.int32)


_MINICPM4 = SelectionConfig(dense_len=0)
_NSA = SelectionConfig(blocks=16, local_blocks=2, dense_len=0)
_WIDE_BLOCKS = SelectionConfig(block=128, blocks=48, local_blocks=16, dense_len=0)
_SMALL = SelectionConfig(block=32, blocks=8, local_blocks=2, dense_len=0)

# The attention of MiniCPM4-8B (32 heads over 2, h = 128) at 8K to 128K tokens, with 96 blocks of 64, NSA's 16, and as
# many tokens in blocks of 128; that of MiniCPM4-0.5B (16 heads over 2, h = 64); and one that a CPU trains.
SPECS: dict[str, ArgSpec] = {
    **{f"minicpm4-8b-{T // 1024}k": ArgSpec(1, T, 32, 2, 128, _MINICPM4) for T in (2**i for i in range(13, 18))},
    **{f"nsa-size-{T // 1024}k": ArgSpec(1, T, 32, 2, 128, _NSA) for T in (2**i for i in range(13, 18))},
    "wide-blocks-128k": ArgSpec(1, 131_072, 32, 2, 128, _WIDE_BLOCKS),
    "minicpm4-0.5b-32k": ArgSpec(1, 32_768, 16, 2, 64, _MINICPM4),
    "small-4k": ArgSpec(1, 4096, 8, 2, 64, _SMALL, "float32"),
}
