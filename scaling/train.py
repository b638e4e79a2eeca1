"""Training: the state, the compiled step, and the loop over a group of runs.

A group's runs share one compiled program: learning rates, scales, weight decay and clip values are arrays, and so are
the numbers of steps in a dispatch, so trunks, branches and all decay shapes of one size run through it, alone or many
together. The state has a leading axis of runs, R; a run that is alone is a group of one.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from scaling.mesh import DATA, RUNS, Execution
from scaling.optimizers import Hyper

Params = Any
Batch = Mapping[str, Any]  # of arrays, on the host or on devices
# (params, batch of rows, scalars) -> (sum of nats over the counted targets, their number)
LossFn = Callable[[Params, Batch, Hyper], tuple[jax.Array, jax.Array]]


class TrainState(NamedTuple):
    """Everything that training changes: parameters, optimiser state, updates done."""

    params: Params
    opt_state: optax.OptState
    step: jax.Array


# hyper-parameters enter the step as arrays: scalars inside a step, [R, K] over the steps of a dispatch
OptimizerFn = Callable[[Hyper], optax.GradientTransformation]
# (state [R, ...], rows [R, K, B, T+1], hyper [R, K], numbers of steps [R]) -> (state, metrics [R, K])
Dispatch = Callable[[TrainState, Batch, Hyper, Any], tuple[TrainState, dict[str, jax.Array]]]


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
        return jax.tree.map(jnp.add, sums, value_and_grad(params, piece, hyper)), None

    if microbatches == 1:
        sums = value_and_grad(params, rows, hyper)
    else:
        pieces = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), rows)
        shape = jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], pieces), hyper)
        # varying from the start, as the sums will be
        zeros = jax.tree.map(lambda x: lax.pcast(jnp.zeros(x.shape, x.dtype), (RUNS, DATA), to="varying"), shape)
        sums, _ = lax.scan(accumulate, zeros, pieces)
    (nats, count), gradients = lax.psum(sums, DATA)
    gradients = jax.tree.map(lambda g: g / count, gradients)
    updates, opt_state = optimizer(hyper).update(gradients, state.opt_state, state.params)
    new_params = optax.apply_updates(state.params, updates)
    metrics = {"loss": nats / count, "grad_norm": optax.tree.norm(gradients)}
    return TrainState(new_params, opt_state, state.step + 1), metrics


def compile_dispatch(loss_fn: LossFn, optimizer: OptimizerFn, execution: Execution) -> Dispatch:
    """The compiled program of up to K = `steps_per_dispatch` steps of every run of a group. The state is donated."""
    mesh, lanes, size = execution.mesh, execution.lanes, execution.steps_per_dispatch

    def step(state: TrainState, rows: Batch, hyper: Hyper) -> Any:
        return train_step(state, rows, hyper, loss_fn, optimizer, execution.microbatches)

    def no_metrics(*shape: int) -> Any:
        return {name: lax.pcast(jnp.zeros(shape), (RUNS,), to="varying") for name in ("loss", "grad_norm")}

    def alone(state: TrainState, rows: Batch, hyper: Hyper, count: jax.Array) -> Any:
        """Steps of one run."""

        def body(k: jax.Array, carry: Any) -> Any:
            state, metrics = carry
            state, found = step(state, *_at(k, (rows, hyper)))
            return state, _put(metrics, found, k)

        # a loop with a traced count, not a scan: the last dispatch before a checkpoint may be shorter
        return lax.fori_loop(0, count, body, (state, no_metrics(size)))

    def in_turn(states: TrainState, rows: Batch, hyper: Hyper, counts: jax.Array) -> Any:
        """Runs one after another, each written back where it was: bit by bit what each would do alone."""

        def body(r: Any, carry: Any) -> Any:
            return _put(carry, alone(*_at(r, (carry[0], rows, hyper, counts))), r)

        carry = states, no_metrics(lanes, size)
        return body(0, carry) if lanes == 1 else lax.fori_loop(0, lanes, body, carry)

    def at_once(states: TrainState, rows: Batch, hyper: Hyper, counts: jax.Array) -> Any:
        """Runs side by side; one that has done its steps is computed along and left as it was."""

        def body(k: jax.Array, carry: Any) -> Any:
            states, metrics = carry
            after, found = jax.vmap(step)(states, *_at(k, (rows, hyper), axis=1))

            def keep(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(jnp.expand_dims(k < counts, range(1, old.ndim)), new, old)

            return jax.tree.map(keep, after, states), _put(metrics, found, k, axis=1)

        return lax.fori_loop(0, jnp.max(counts), body, (states, no_metrics(lanes, size)))

    runs, rows_of_runs = PartitionSpec(RUNS), PartitionSpec(RUNS, None, DATA)
    program = jax.jit(
        jax.shard_map(
            at_once if execution.run_axis == "vmap" else in_turn,
            mesh=mesh,
            in_specs=(runs, rows_of_runs, runs, runs),
            out_specs=runs,
            # kernels' loops and calls do not say what varies over devices
            check_vma=execution.sparse_attention is None,
        ),
        out_shardings=NamedSharding(mesh, runs),  # as they came in, or the next call would compile again
        donate_argnums=0,
    )

    def dispatch(state: TrainState, rows: Batch, hyper: Hyper, counts: Any) -> Any:
        placed_rows = jax.device_put(rows, NamedSharding(mesh, rows_of_runs))
        placed = jax.device_put((hyper, np.asarray(counts, np.int32)), NamedSharding(mesh, runs))
        return program(state, placed_rows, *placed)

    dispatch.cache_size = program._cache_size  # type: ignore[attr-defined]  # how often it was compiled
    return dispatch


def _at(index: Any, tree: Any, axis: int = 0) -> Any:
    """The part of every array at an index of one axis."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, axis, keepdims=False), tree)


def _put(tree: Any, part: Any, index: Any, axis: int = 0) -> Any:
    """Every array with the part at an index of one axis replaced."""
    return jax.tree.map(lambda x, y: lax.dynamic_update_index_in_dim(x, y, index, axis), tree, part)


class LogRow(NamedTuple):
    """What one step leaves in the log.

    Attributes:
        step: updates done, this one included.
        tokens: trained on after so many.
        learning_rate: of this step.
        loss: in nats per token.
        grad_norm: before clipping.
        seconds: time of the dispatch, divided by the steps that all its runs did in it.
    """

    step: int
    tokens: int
    learning_rate: float
    loss: float
    grad_norm: float
    seconds: float


class NonFinite(NamedTuple):
    """Loss or gradient of a step was not a finite number; `step` counts the updates done before it."""

    step: int
    loss: float
    grad_norm: float

    def __str__(self) -> str:
        return f"non-finite loss {self.loss} or gradient norm {self.grad_norm} at step {self.step}"


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a group, as the loop sees it.

    Attributes:
        start: updates done.
        save_at: steps at which its state is saved, ascending; the last is its end.
        stacks: numbers of valid steps and rows [K, B, T+1], in order, none across a step of `save_at`.
        hyper: (from step, K) -> hyper-parameters [K].
        tokens_at: tokens trained on after so many updates.
        record: receives log rows, in order, before the state after them is saved.
        save: writes a checkpoint; called at every step of `save_at` and, so that a crash costs little, in between.
        fail: told once, of the first step that was not finite; nothing after it is recorded or saved.
    """

    start: int
    save_at: Sequence[int]
    stacks: Iterator[tuple[int, Batch]]
    hyper: Callable[[int, int], Hyper]
    tokens_at: Callable[[int], int]
    record: Callable[[list[LogRow]], None]
    save: Callable[[int, TrainState], None]
    fail: Callable[[NonFinite], None]

    @property
    def stop(self) -> int:
        """Updates to have done."""
        return self.save_at[-1]


class _Pending(NamedTuple):
    """A dispatch whose results have not been waited for."""

    first: dict[int, int]
    counts: list[int]
    metrics: dict[str, jax.Array]
    hyper: Hyper


def train(
    state: TrainState,
    members: Mapping[int, Member],
    *,
    dispatch: Dispatch,
    execution: Execution,
    save_every_seconds: float,
    stop_requested: Callable[[], bool],
) -> None:
    """Trains every member of a group to its end, whatever becomes of the others.

    Args:
        state: [R, ...], that of each member after its `start` updates.
        members: by their places in the state.
        dispatch: from `compile_dispatch`.
        execution: how it was compiled.
        save_every_seconds: how much work a crash may cost.
        stop_requested: asked between dispatches.

    Raises:
        InterruptedRunError: on request, once the states are saved.
    """
    at = {place: run.start for place, run in members.items()}
    saved, failed = dict(at), set[int]()
    pending: _Pending | None = None
    last_save = since = time.monotonic()

    def left() -> dict[int, int]:
        """Steps still to be done."""
        return {p: run.stop - at[p] for p, run in members.items() if p not in failed and at[p] < run.stop}

    def settle() -> None:
        """Waits for the pending dispatch and records it."""
        nonlocal pending, since
        if pending is None:
            return
        first, counts, metrics, rates = pending
        losses_RK, norms_RK, rates_RK = (np.asarray(x) for x in (metrics["loss"], metrics["grad_norm"], rates[0]))
        now = time.monotonic()
        seconds, since, pending = (now - since) / sum(counts), now, None
        finite_RK = np.isfinite(losses_RK) & np.isfinite(norms_RK)
        for place in members.keys() - failed:
            run, step, count = members[place], first[place], counts[place]
            good = count if finite_RK[place, :count].all() else int(np.argmin(finite_RK[place, :count]))
            loss, norm, rate = (x[place].tolist() for x in (losses_RK, norms_RK, rates_RK))
            if count:
                run.record(
                    [
                        LogRow(step + k + 1, run.tokens_at(step + k + 1), rate[k], loss[k], norm[k], seconds)
                        for k in range(good)
                    ]
                )
            if good < count:
                failed.add(place)
                run.fail(NonFinite(step + good, loss[good], norm[good]))

    while turn := _turn(left(), execution):
        stacks = {place: next(members[place].stacks) for place in turn}
        counts = [stacks[place][0] if place in stacks else 0 for place in range(execution.runs)]
        rows = side_by_side({place: batch for place, (_, batch) in stacks.items()}, execution.runs)
        size = next(iter(rows.values())).shape[1]
        rates = side_by_side({place: members[place].hyper(at[place], size) for place in turn}, execution.runs)
        state, metrics = dispatch(state, rows, rates, counts)
        settle()  # the dispatch before this one, while this one computes
        pending = _Pending(dict(at), counts, metrics, rates)
        for place in turn:
            at[place] += counts[place]
        interrupted = stop_requested()
        everything = bool(left()) and (interrupted or time.monotonic() - last_save > save_every_seconds)
        due = [p for p, run in members.items() if at[p] > saved[p] and (everything or at[p] in run.save_at)]
        if due:
            settle()
            for place in due:
                if place not in failed:
                    members[place].save(at[place], _take(state, place))
                    saved[place] = at[place]
        if everything:
            last_save = time.monotonic()
            if interrupted and left():
                raise InterruptedRunError(_stopped({place: (at[place], members[place].stop) for place in left()}))
    settle()


def _turn(left: Mapping[int, int], execution: Execution) -> list[int]:
    """The places that train in the next dispatch, given the steps that each has left.

    Side by side that is all of them. One after another it is equally many for every set of devices, for they wait
    for each other after a dispatch; those with most left come first.
    """
    if execution.run_axis == "vmap":
        return sorted(left)
    sets: dict[int, list[int]] = {}
    for place in sorted(left, key=lambda place: (-left[place], place)):
        sets.setdefault(place // execution.lanes, []).append(place)
    share = min(map(len, sets.values()), default=0)
    return sorted(place for places in sets.values() for place in places[:share])


def side_by_side(parts: Mapping[int, Any], places: int) -> Any:
    """Trees of single runs' arrays, by place, along a leading axis of runs, on the host.

    A place without one holds another's, which is there for its shape alone.
    """
    some = next(iter(parts.values()))
    return jax.tree.map(lambda *x: np.stack(x), *(parts.get(place, some) for place in range(places)))


@jax.jit
def _take(state: TrainState, place: Any) -> TrainState:
    """The state of one run of a group."""
    taken: TrainState = _at(place, state)
    return taken


def _stopped(at: Mapping[int, tuple[int, int]]) -> str:
    if len(at) == 1:
        ((step, stop),) = at.values()
        return f"stopped and saved at step {step} of {stop}"
    steps = [step for step, _ in at.values()]
    return f"stopped and saved {len(at)} runs at steps {min(steps)} to {max(steps)}"
