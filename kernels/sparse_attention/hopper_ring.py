"""How keys reach the kernels that go over query tiles, forward and dQ: a walk along a union of blocks, in a ring.

A thread block has one warpgroup that loads and up to two that compute. Between them is a ring of stages in shared
memory; the walk is the same for all.

Axis letters: README.md; R the rows of queries, U the slots of a union of blocks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.sparse_attention import hopper
from kernels.sparse_attention.hopper import KEYS, ROWS

STAGES = 4
_WARPGROUP = "warpgroup"


@dataclasses.dataclass(frozen=True)
class Steps:
    """The walk of the tiles that share a union over the keys of its blocks, `KEYS` at a time.

    Attributes:
        blocks_U: block ids, in global memory.
        members_U: which tokens see each, in global memory.
        block: tokens of a block.
        count: how many steps there are.
    """

    blocks_U: Any
    members_U: Any
    block: int
    count: Any

    @classmethod
    def of(cls, blocks: Any, counts: Any, members: Any, index: tuple[Any, ...], block: int) -> "Steps":
        """The walk at an index of the union tables."""
        return cls(blocks.at[index], members.at[index], block, counts[index] * (block // KEYS))

    def at(self, step: Any) -> tuple[Any, Any]:
        """Position of the step's first key, and the members of its block."""
        pieces = jnp.int32(self.block // KEYS)
        slot = lax.div(step, pieces)
        return self.blocks_U[slot] * self.block + lax.rem(step, pieces) * KEYS, self.members_U[slot]


class KeyRing(NamedTuple):
    """A ring in shared memory through which keys and values flow to the warpgroups that compute.

    The one that loads waits until all have `consumed` a stage; they wait until its part is `loaded`.
    """

    k: Any
    v: Any
    segments: Any
    k_loaded: Any
    v_loaded: Any
    consumed: Any

    @classmethod
    def scratch(cls, workers: int, head: int, dtype: Any, segmented: bool) -> "KeyRing":
        """What a kernel allocates for it."""
        return cls(
            hopper.operand(STAGES, KEYS, head, dtype=dtype),
            hopper.operand(STAGES, KEYS, head, dtype=dtype),
            plgpu.SMEM((STAGES, KEYS), jnp.int32) if segmented else None,
            plgpu.Barrier(num_arrivals=2 if segmented else 1, num_barriers=STAGES),
            plgpu.Barrier(num_barriers=STAGES),
            plgpu.Barrier(num_arrivals=workers, num_barriers=STAGES),
        )

    def load(self, steps: Steps, k_Sh: Any, v_Sh: Any, segments_S: Any) -> None:
        """Loads every step's keys, values and documents; what lies beyond S arrives as zeros."""

        @pl.loop(0, steps.count)
        def _(step: Any) -> None:
            stage = lax.rem(step, jnp.int32(STAGES))

            @pl.when(step >= STAGES)
            def _() -> None:
                plgpu.barrier_wait(self.consumed.at[stage])

            keys = pl.ds(steps.at(step)[0], KEYS)
            plgpu.copy_gmem_to_smem(k_Sh.at[keys], self.k.at[stage], self.k_loaded.at[stage])
            if self.segments is not None:
                plgpu.copy_gmem_to_smem(segments_S.at[keys], self.segments.at[stage], self.k_loaded.at[stage])
            plgpu.copy_gmem_to_smem(v_Sh.at[keys], self.v.at[stage], self.v_loaded.at[stage])

    def visible(self, stage: Any, first_key: Any, members: Any, mask: hopper.Mask) -> jax.Array:
        """[R, S] bool: which of a stage's keys the rows of a tile see."""
        position_RS = plgpu.broadcasted_iota(jnp.int32, (ROWS, KEYS), 1, layout=hopper.TILE)
        visible_RS: jax.Array = first_key + position_RS <= hopper.across(mask.last_visible(members), KEYS)
        if self.segments is not None:
            segment_S = plgpu.load(self.segments.at[stage], layout=hopper.PER_COLUMN)
            visible_RS &= hopper.across(mask.segment_R, KEYS) == hopper.down(segment_S)
        return visible_RS


def walk(
    tiling: hopper.Tiling,
    ring: KeyRing,
    steps: Steps,
    mask: hopper.Mask,
    worker: Any,
    seen: Callable[[Any, jax.Array, Any], Any],
    state: Any,
) -> Any:
    """Goes over all steps as one of the workers: the state after the last.

    Args:
        tiling: of the call.
        ring: what the loading warpgroup fills.
        steps: of the union of tiles.
        mask: of this worker's tile.
        worker: its number.
        seen: (stage, visible_RS, state) -> state, for a block that tokens of the tile see; waits for the values.
            A block that only another tile sees is passed over.
        state: to begin with, arrays in registers.
    """

    def step(i: Any, state: Any) -> Any:
        stage = lax.rem(i, jnp.int32(STAGES))
        first_key, members = steps.at(i)
        members = tiling.members_of(members, worker)
        plgpu.barrier_wait(ring.k_loaded.at[stage])

        def attend(state: Any) -> Any:
            return seen(stage, ring.visible(stage, first_key, members, mask), state)

        def pass_over(state: Any) -> Any:
            plgpu.barrier_wait(ring.v_loaded.at[stage])  # a barrier's phases are waited for one by one
            return state

        state = attend(state) if tiling.workers == 1 else lax.cond(members != 0, attend, pass_over, state)
        if ring.segments is not None:
            plgpu.commit_smem()  # read by threads, next written by TMA
        plgpu.barrier_arrive(ring.consumed.at[stage])
        return state

    return lax.fori_loop(0, steps.count, step, state)


def launch(tiling: hopper.Tiling, batch: int, rows: int) -> dict[str, Any]:
    """The grid of a kernel over query tiles: a thread block for each union, of its workers and one that loads."""
    tiles = rows // (tiling.workers * ROWS)
    grid = {"grid": (batch, tiling.kv_heads, tiles), "grid_names": hopper.GRID}
    return grid | {"num_threads": tiling.workers + 1, "thread_name": _WARPGROUP}


def program() -> tuple[Any, Any, Any, Any]:
    """Of what runs: batch row, kv-head, union of tiles, warpgroup."""
    batch, kv_head, tiles = map(lax.axis_index, hopper.GRID)
    return batch, kv_head, tiles, lax.axis_index(_WARPGROUP)


def set_registers(tiling: hopper.Tiling, computes: bool) -> None:
    """Moves registers from the warpgroup that loads to those that compute; 65,536 are there for all of them."""
    if tiling.workers == 2:  # with less company there is no lack of them
        plgpu.set_max_registers(232 if computes else 40, action="increase" if computes else "decrease")
