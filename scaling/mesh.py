"""The device mesh, how a batch and a state lie on it, and the fingerprint of an execution."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from models.config import Backend, ModelConfig
from scaling.accounting import parameter_counts
from scaling.config import DataConfig, ExecutionConfig, RunConfig
from scaling.environment import versions
from scaling.errors import UserError

RUNS, DATA = "runs", "data"
# Tokens that a CPU core works through at a time: their activations then stay in its cache.
_CPU_MICROBATCH_TOKENS = 512
_UNROLL_AT_MOST = 12
_RUNS_PER_GROUP = 8
_FILLS_A_DEVICE = 50_000_000  # parameters from which on a run is not put beside others on one accelerator
_ROWS_BYTES = 2**28  # of a dispatch of a whole group
# float32 logits that exist at a time, at most: on an accelerator so many that writing the output table's gradient once
# a chunk costs little beside its products
_CPU_LOGITS_BYTES, _LOGITS_BYTES = 2**24, 2**31
_LOSS_TILE = 128  # chunks are multiples of it, for matrix units


@dataclasses.dataclass(frozen=True)
class Execution:
    """An `ExecutionConfig` with every automatic choice made for this machine, this batch and a group of so many runs.

    Attributes:
        devices: devices that share a run's batch.
        run_devices: sets of so many devices, between which a group's runs are divided.
        lanes: runs for which one set has room.
        run_axis: how it trains them: one after another ("map") or side by side ("vmap").
        sparse_attention: the backend of sparse layers; None where rows are attended densely in every layer.
    """

    devices: int
    run_devices: int
    lanes: int
    run_axis: Literal["map", "vmap"]
    microbatches: int
    steps_per_dispatch: int
    unroll: int
    remat: Literal["none", "block"]
    attention: Literal["batched_matmul", "dot_product_attention", "cudnn"]
    loss_chunk: int
    sparse_attention: Backend | None = None

    @property
    def runs(self) -> int:
        """R, the places for runs in the compiled program."""
        return self.run_devices * self.lanes

    @property
    def mesh(self) -> Mesh:
        """The mesh: runs are divided over one axis, a batch's rows over the other."""
        return jax.make_mesh(
            (self.run_devices, self.devices),
            (RUNS, DATA),
            axis_types=(jax.sharding.AxisType.Auto,) * 2,
            devices=jax.devices()[: self.run_devices * self.devices],
        )

    def fingerprint(self) -> dict[str, Any]:
        """What may change the last digits of a result; bitwise statements hold within one fingerprint.

        Runs that are trained one after another on a device have the digits of a run alone there, so of the grouping
        only the number of runs computed at once is in it.
        """
        grouping = {"lanes", "run_axis"}
        own = {name: value for name, value in dataclasses.asdict(self).items() if name not in grouping}
        if self.sparse_attention is None:  # as it was before there was any
            del own["sparse_attention"]
        return own | {
            "vmapped_runs": self.lanes if self.run_axis == "vmap" else 1,
            "device": jax.devices()[0].device_kind,
            "threads": os.environ.get("NPROC"),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "versions": versions(),
        }


def resolve(
    config: ExecutionConfig, data: DataConfig, model: ModelConfig, backend: str | None = None, runs: int = 1
) -> Execution:
    """Makes the automatic choices: devices that divide the batch, cache-sized microbatches, unrolling.

    Args:
        config: what was asked for; zeros are automatic.
        data: its batch size and row length.
        model: its layers, heads, vocabulary and type.
        backend: jax's name of what to choose for; None: this process's.
        runs: how many runs the group has room for.

    Raises:
        UserError: an explicit choice that this machine or this batch cannot have.
    """
    backend = backend or jax.default_backend()
    on_cpu = backend == "cpu"
    there = jax.device_count()
    devices = _devices_of_a_run(config, data.batch_size, runs)
    if devices > there or data.batch_size % devices:
        raise UserError(
            f"execution.devices is {devices}: it must divide the batch of {data.batch_size} rows and be at most the "
            f"{there} devices there are; 0 chooses"
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
    # All devices, however few runs there are: the number of partitions changes the last digits of a program.
    run_devices = there // devices
    lanes = math.ceil(runs / run_devices)
    side_by_side = lanes > 1 and _is_vmapped(config, backend, model)
    unroll = config.unroll or (model.num_layers if on_cpu and model.num_layers <= _UNROLL_AT_MOST else 1)
    return Execution(
        devices=devices,
        run_devices=run_devices,
        lanes=lanes,
        run_axis="vmap" if side_by_side else "map",
        microbatches=microbatches,
        steps_per_dispatch=config.steps_per_dispatch,
        unroll=unroll,
        remat=config.remat,
        attention=_attention(model, data.sequence_length, backend),
        loss_chunk=_loss_chunk(
            rows // microbatches * data.sequence_length, model.vocab_size * (lanes if side_by_side else 1), on_cpu
        ),
    )


def _attention(
    model: ModelConfig, sequence_length: int, backend: str
) -> Literal["batched_matmul", "dot_product_attention", "cudnn"]:
    """cuDNN's flash attention where it can: bfloat16 on a GPU, heads of 8, 16, ... 128 and rows of even length.

    Where the shape alone stands against it, that is a warning.
    """
    if backend == "cpu":
        return "batched_matmul"
    if backend != "gpu" or model.compute_dtype != "bfloat16":
        return "dot_product_attention"
    if model.head_dim % 8 == 0 and model.head_dim <= 128 and sequence_length % 2 == 0:
        return "cudnn"
    _warn_of_slow_attention(model.head_dim, sequence_length)
    return "dot_product_attention"


@functools.cache  # once for each shape
def _warn_of_slow_attention(head_dim: int, sequence_length: int) -> None:
    warnings.warn(
        f"heads of {head_dim} and rows of {sequence_length} tokens are not for cuDNN's flash attention, which takes "
        f"heads of 8, 16, ... 128 and rows of even length: XLA's attention, which keeps all scores, is taken in its "
        f"stead; choose head_dim and sequence_length so for speed",
        stacklevel=2,
    )


def _loss_chunk(targets: int, vocab_size: int, on_cpu: bool) -> int:
    """Targets whose logits exist at a time: 0 (all) where these are small, else even chunks in whole tiles."""
    chunks = math.ceil(targets * vocab_size * 4 / (_CPU_LOGITS_BYTES if on_cpu else _LOGITS_BYTES))
    return 0 if chunks == 1 else math.ceil(targets / chunks / _LOSS_TILE) * _LOSS_TILE


class Room(NamedTuple):
    """What a device has room for.

    Attributes:
        runs: how many runs make a group at most.
        sets: for a group of so many runs, the sets of devices that work through them one after another, so that runs
            of unlike length may leave one idle; 1 where they go side by side.
    """

    runs: int
    sets: Callable[[int], int]


def room(config: ExecutionConfig, run: RunConfig) -> Room:
    """How many runs like this one train as one program: as many as there is something to gain from.

    One after another on one device there is nothing, for the work is that of runs alone; on several devices, runs that
    keep to one each save what sharing a batch costs. Side by side, small runs fill a device together; a large one fills
    it by itself. Measured on a CPU (`experiments.benchmarks.run_batch`), assumed for accelerators.

    Raises:
        UserError: less than one was asked for.
    """
    if config.runs_per_group < 0:
        raise UserError(f"execution.runs_per_group is {config.runs_per_group}: 1 or more, or 0, which chooses")
    data, there = run.data, jax.device_count()
    vmapped, most_sets = _is_vmapped(config, jax.default_backend(), run.model), max(1, there // (config.devices or 1))
    if vmapped:
        wanted = _RUNS_PER_GROUP if parameter_counts(run.model).total < _FILLS_A_DEVICE else most_sets
    else:
        wanted = _RUNS_PER_GROUP if most_sets > 1 else 1
    # tokens and segments of a dispatch's rows, of which the host holds about three times as many
    rows = config.steps_per_dispatch * data.batch_size * (data.sequence_length + 1) * 2 * 4
    most = config.runs_per_group or max(1, min(wanted, _ROWS_BYTES // rows))
    if vmapped:
        return Room(most, lambda runs: 1)
    return Room(most, lambda runs: max(1, there // _devices_of_a_run(config, data.batch_size, runs)))


def _devices_of_a_run(config: ExecutionConfig, batch_size: int, runs: int) -> int:
    """Devices that share the batch of each run of a group of so many: those asked for, else as many as divide it.

    Devices go to different runs first, for those never wait for each other; those left over share a run's batch.
    """
    there = jax.device_count()
    for_one_run = there // max(n for n in range(1, min(runs, there) + 1) if there % n == 0)
    return config.devices or max(n for n in range(1, for_one_run + 1) if batch_size % n == 0)


def _is_vmapped(config: ExecutionConfig, backend: str, model: ModelConfig) -> bool:
    """Whether a group's runs go side by side; those with sparse layers by themselves do not, for a kernel takes one."""
    return config.run_axis == "vmap" or (config.run_axis == "auto" and backend != "cpu" and model.sparse is None)


def replicated(mesh: Mesh) -> NamedSharding:
    """A sharding that holds every value whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_all_devices(mesh: Mesh) -> NamedSharding:
    """A sharding that splits the leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((RUNS, DATA)))
