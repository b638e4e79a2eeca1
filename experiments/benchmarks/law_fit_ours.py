"""Our side of the fitting benchmark: the engine of `windtunnel fit`, in a process that compiles anew and then waits."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scaling import environment
from scaling.laws import fit as fitting
from scaling.laws import solver, table, uncertainty
from scaling.laws.forms import CHINCHILLA

TOGETHER = 64_000  # descents of the multi-start bootstrap that are handed over at a time: 250 MB of weights


def fit(points: table.Table, starts: int) -> dict[str, Any]:
    """A certified fit from `starts` starts."""
    found = fitting.fit(CHINCHILLA, points, starts=starts)
    certificate = found.certificate
    return {
        "objective": found.objective,
        "share_at_optimum": certificate.share_at_optimum,
        "gradient_norm": certificate.gradient_norm,
        "findings": list(certificate.findings),
    }


def bootstrap(points: table.Table, replicates: int) -> dict[str, Any]:
    """Replicates from the optimum found, one in twenty audited from many starts. The fit itself is not timed."""
    found = fitting.fit(CHINCHILLA, points)
    began = time.perf_counter()
    drawn = uncertainty.bootstrap(found, replicates=replicates, method="resample")
    return {"seconds": time.perf_counter() - began, "audited": drawn.audit.replicates, "missed": drawn.audit.missed}


def restarts(points: table.Table, replicates: int, starts: int) -> dict[str, Any]:
    """Every replicate from `starts` starts, and how often one of them beats the warm start of `bootstrap`."""
    found = fitting.fit(CHINCHILLA, points)
    rng = np.random.default_rng(0)
    weight_RN = rng.multinomial(len(points), np.full(len(points), 1 / len(points)), size=replicates).astype(float)
    data = fitting.as_points(CHINCHILLA, points, np.ones(len(points)))
    began = time.perf_counter()
    start_SP = solver.draw_starts(CHINCHILLA, data, starts, seed=0)
    best = []
    for first in range(0, replicates, TOGETHER // starts):
        weights = weight_RN[first : first + TOGETHER // starts]
        repeated = data._replace(
            log_loss=np.broadcast_to(data.log_loss, (len(weights) * starts, len(points))),
            weight=np.repeat(weights, starts, 0),
        )
        value = solver.solve(CHINCHILLA, repeated, np.tile(start_SP, (len(weights), 1)), found.delta)[1]
        best.append(np.nanmin(value.reshape(len(weights), starts), 1))
    seconds = time.perf_counter() - began
    every = data._replace(log_loss=np.broadcast_to(data.log_loss, weight_RN.shape), weight=weight_RN)
    warm_RP = np.broadcast_to(found.theta, (replicates, len(found.theta)))
    _, warm = solver.solve(CHINCHILLA, every, warm_RP, found.delta)
    return {"seconds": seconds, "missed": int(np.sum(np.concatenate(best) < warm * (1 - 1e-8)))}


def exponentials(rows: int = 64, columns: int = 256, repeats: int = 2000) -> dict[str, Any]:
    """Float64 exponentials a second on all devices at once, of numbers that stay in the cache."""
    devices = jax.device_count()
    one_each = jax.make_mesh((devices,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("device")

    def chain(x: Any) -> Any:  # each depends on the one before, so that none is left out
        return jax.lax.fori_loop(0, repeats, lambda _, y: jnp.exp(-y), x)

    with jax.enable_x64(True):
        program = jax.jit(jax.shard_map(chain, mesh=one_each, in_specs=split, out_specs=split))
        x = jax.device_put(np.ones((devices, rows, columns)), NamedSharding(one_each, split))
        program(x).block_until_ready()
        began = time.perf_counter()
        program(x).block_until_ready()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "per_second": devices * rows * columns * repeats / seconds}


def facts() -> dict[str, Any]:
    """Who computes: versions, devices."""
    return {"versions": environment.versions(), "devices": [str(device) for device in jax.devices()]}


def main() -> None:
    """Serves requests, one JSON line each: [name, arguments]; answers have `seconds`, of the whole call by default."""
    points = table.read_table(Path(sys.argv[1]))
    served: dict[str, Callable[..., dict[str, Any]]] = {
        "fit": lambda starts: fit(points, starts),
        "bootstrap": lambda replicates: bootstrap(points, replicates),
        "restarts": lambda replicates, starts: restarts(points, replicates, starts),
        "exponentials": exponentials,
    }
    print(json.dumps(facts()), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        began = time.perf_counter()
        answer = served[name](*arguments)
        print(json.dumps({"seconds": time.perf_counter() - began} | answer), flush=True)


if __name__ == "__main__":
    main()
