"""The device mesh, how a batch and a state lie on it, and the fingerprint of an execution."""

import dataclasses
import os
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scaling.config import DataConfig, ExecutionConfig
from scaling.environment import versions
from scaling.errors import UserError

DATA = "data"
# Tokens that a CPU core works through at a time: their activations then stay in its cache.
_CPU_MICROBATCH_TOKENS = 512
_UNROLL_AT_MOST = 12


@dataclasses.dataclass(frozen=True)
class Execution:
    """An `ExecutionConfig` with every automatic choice made for this machine and this batch."""

    devices: int
    microbatches: int
    steps_per_dispatch: int
    unroll: int
    remat: Literal["none", "block"]
    attention: Literal["batched_matmul", "dot_product_attention"]

    @property
    def mesh(self) -> Mesh:
        """The mesh: one axis, over which a batch's rows are split."""
        return jax.make_mesh(
            (self.devices,),
            (DATA,),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[: self.devices],
        )

    def fingerprint(self) -> dict[str, Any]:
        """What may change the last digits of a result; bitwise statements hold within one fingerprint."""
        return dataclasses.asdict(self) | {
            "device": jax.devices()[0].device_kind,
            "threads": os.environ.get("NPROC"),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "versions": versions(),
        }


def resolve(config: ExecutionConfig, data: DataConfig, num_layers: int) -> Execution:
    """Makes the automatic choices: devices that divide the batch, cache-sized microbatches, unrolling.

    Args:
        config: what was asked for; zeros are automatic.
        data: its batch size and row length.
        num_layers: of the model.

    Raises:
        UserError: an explicit choice that this machine or this batch cannot have.
    """
    on_cpu = jax.default_backend() == "cpu"
    devices = config.devices or max(n for n in range(1, jax.device_count() + 1) if data.batch_size % n == 0)
    if devices > jax.device_count() or data.batch_size % devices:
        raise UserError(
            f"execution.devices is {devices}: it must divide the batch of {data.batch_size} rows and be at most the "
            f"{jax.device_count()} devices there are; 0 chooses"
        )
    rows = data.batch_size // devices
    rows_at_once = max(1, _CPU_MICROBATCH_TOKENS // data.sequence_length) if on_cpu else rows
    microbatches = config.microbatches or next(
        n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= rows_at_once
    )
    if rows % microbatches:
        raise UserError(
            f"execution.microbatches is {microbatches}: it must divide the {rows} rows that each of {devices} devices "
            f"has of a batch; 0 chooses"
        )
    unroll = config.unroll or (num_layers if on_cpu and num_layers <= _UNROLL_AT_MOST else 1)
    return Execution(
        devices=devices,
        microbatches=microbatches,
        steps_per_dispatch=config.steps_per_dispatch,
        unroll=unroll,
        remat=config.remat,
        attention="batched_matmul" if on_cpu else "dot_product_attention",
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A sharding that holds every value whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(mesh: Mesh, axis: int) -> NamedSharding:
    """A sharding that splits the rows of a batch, `axis` being the position of B, over the data axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))
