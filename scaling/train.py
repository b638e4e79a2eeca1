"""Training: the state, the compiled step, and the loop.

The step is compiled once per size: learning rate, weight decay and clip value are arrays, the number of steps
in a dispatch is an array too, so trunk, branches and all decay shapes run through one program.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import PartitionSpec

from scaling.mesh import DATA, Execution, replicated, rows_sharding
from scaling.optimizers import Hyper

Params = Any
Batch = Mapping[str, Any]  # of arrays, on the host or on devices
# (params, batch of rows) -> (sum of nats over the counted targets, their number)
LossFn = Callable[[Params, Batch], tuple[jax.Array, jax.Array]]


class TrainState(NamedTuple):
    """Everything that training changes: parameters, optimiser state, updates done."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array


# hyper-parameters enter the step as arrays: scalars inside a step, [K] over the steps of a dispatch
OptimizerFn = Callable[[Hyper], optax.GradientTransformation]
# (state, rows [K, B, T+1], hyper [K], number of steps) -> (state, metrics [K])
Dispatch = Callable[[TrainState, Batch, Hyper, int], tuple[TrainState, dict[str, jax.Array]]]


class NonFiniteError(Exception):
    """Loss or gradient of a step was not a finite number; `step` counts the updates done before it."""

    def __init__(self, step: int, loss: float, grad_norm: float) -> None:
        super().__init__(f"non-finite loss {loss} or gradient norm {grad_norm} at step {step}")
        self.step = step


class InterruptedRunError(Exception):
    """Training stopped on request; whatever was being trained was saved."""


def train_step(
    state: TrainState, rows: Batch, hyper: Hyper, loss_fn: LossFn, optimizer: OptimizerFn, microbatches: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from this device's share of a batch; the gradient is the mean over the whole batch's targets."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    # Gradients are this device's alone until the one sum below: with respect to parameters that JAX knows to be the
    # same on all devices they would come summed already, and once more in every microbatch.
    params = lax.pcast(state.params, (DATA,), to="varying")

    def accumulate(sums: Any, piece: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, value_and_grad(params, piece)), None

    if microbatches == 1:
        sums = value_and_grad(params, rows)
    else:
        pieces = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), rows)
        shape = jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], pieces))
        # varying over the data axis from the start, as the sums will be
        zeros = jax.tree.map(lambda x: lax.pcast(jnp.zeros(x.shape, x.dtype), (DATA,), to="varying"), shape)
        sums, _ = lax.scan(accumulate, zeros, pieces)
    (nats, count), gradients = lax.psum(sums, DATA)
    gradients = jax.tree.map(lambda g: g / count, gradients)
    updates, opt_state = optimizer(hyper).update(gradients, state.opt_state, state.params)
    new_params = optax.apply_updates(state.params, updates)
    metrics = {"loss": nats / count, "grad_norm": optax.tree.norm(gradients)}
    return TrainState(new_params, opt_state, state.step + 1), metrics


def compile_dispatch(loss_fn: LossFn, optimizer: OptimizerFn, execution: Execution) -> Dispatch:
    """The compiled program of up to K = `steps_per_dispatch` steps. The state is donated."""
    mesh = execution.mesh
    size = execution.steps_per_dispatch

    def steps(state: TrainState, rows: Batch, hyper: Hyper, count: jax.Array) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            state, metrics = carry
            rows_i, hyper_i = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), (rows, hyper))
            state, found = train_step(state, rows_i, hyper_i, loss_fn, optimizer, execution.microbatches)
            return state, {name: metrics[name].at[i].set(value) for name, value in found.items()}

        metrics = {"loss": jnp.zeros(size), "grad_norm": jnp.zeros(size)}
        # a loop with a traced count, not a scan: the last dispatch before a checkpoint may be shorter
        return lax.fori_loop(0, count, body, (state, metrics))

    whole, split = PartitionSpec(), PartitionSpec(None, DATA)
    program = jax.jit(
        jax.shard_map(steps, mesh=mesh, in_specs=(whole, split, whole, whole), out_specs=whole),
        donate_argnums=0,
    )

    def dispatch(state: TrainState, rows: Batch, hyper: Hyper, count: int) -> Any:
        placed_rows = jax.device_put(rows, rows_sharding(mesh, axis=1))
        placed_hyper, placed_count = jax.device_put((hyper, np.int32(count)), replicated(mesh))
        return program(state, placed_rows, placed_hyper, placed_count)

    dispatch.cache_size = program._cache_size  # type: ignore[attr-defined]  # how often it was compiled
    return dispatch


class LogRow(NamedTuple):
    """What one step leaves in the log; `step` counts the updates done, this one included."""

    step: int
    tokens: int
    learning_rate: float
    loss: float
    grad_norm: float
    seconds: float


def train(
    state: TrainState,
    start: int,
    stop: int,
    *,
    dispatch: Dispatch,
    stacks: Callable[[int, int], Iterator[tuple[int, Batch]]],
    hyper: Callable[[int, int], Hyper],
    tokens_at: Callable[[int], int],
    record: Callable[[list[LogRow]], None],
    save: Callable[[int, TrainState], None],
    save_every_seconds: float,
    stop_requested: Callable[[], bool],
) -> TrainState:
    """Trains from `start` to `stop` updates.

    Args:
        state: after `start` updates.
        start: updates done.
        stop: updates to have done.
        dispatch: from `compile_dispatch`.
        stacks: (from step, to step) -> numbers of valid steps and rows [K, B, T+1], in order.
        hyper: (from step, K) -> hyper-parameters [K].
        tokens_at: tokens trained on after so many updates.
        record: receives log rows, in order, before the state after them is saved.
        save: writes a checkpoint; called at `stop` and, so that a crash costs little, in between.
        save_every_seconds: how much work a crash may cost.
        stop_requested: asked between dispatches.

    Raises:
        NonFiniteError: at the first such step; nothing after it is recorded or saved.
        InterruptedRunError: on request, once the state is saved.
    """
    step, last_save = start, time.monotonic()
    pending: tuple[int, int, dict[str, jax.Array], Hyper] | None = None
    since = time.monotonic()

    def settle() -> None:
        """Waits for the pending dispatch and records it."""
        nonlocal pending, since
        if pending is None:
            return
        first, count, metrics, rates = pending
        learning_rates = np.asarray(rates.learning_rate)
        losses, norms = (np.asarray(metrics[name])[:count] for name in ("loss", "grad_norm"))
        now = time.monotonic()
        seconds, since, pending = (now - since) / count, now, None
        finite = np.isfinite(losses) & np.isfinite(norms)
        good = count if finite.all() else int(np.argmin(finite))
        rows = [
            LogRow(
                step=first + i + 1,
                tokens=tokens_at(first + i + 1),
                learning_rate=float(learning_rates[i]),
                loss=float(losses[i]),
                grad_norm=float(norms[i]),
                seconds=seconds,
            )
            for i in range(good)
        ]
        record(rows)
        if good < count:
            raise NonFiniteError(first + good, float(losses[good]), float(norms[good]))

    for count, rows in stacks(start, stop):
        rates = hyper(step, len(next(iter(rows.values()))))
        state, metrics = dispatch(state, rows, rates, count)
        settle()  # the dispatch before this one, while this one computes
        pending = (step, count, metrics, rates)
        step += count
        interrupted = stop_requested()
        if step < stop and (interrupted or time.monotonic() - last_save > save_every_seconds):
            settle()
            save(step, state)
            last_save = time.monotonic()
            if interrupted:
                raise InterruptedRunError(f"stopped and saved at step {step} of {stop}")
    settle()
    save(step, state)
    return state
