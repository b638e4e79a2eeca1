"""What the tests of sparse attention share: random inputs, one comparison for every backend, sizes inside a program."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from kernels.sparse_attention import api
from kernels.sparse_attention.config import num_blocks


class Inputs(NamedTuple):
    """Arguments of `block_sparse_attention` and cotangents of its results."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    ids: jax.Array
    segments: jax.Array | None
    do: jax.Array
    dlse: jax.Array


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem: its sizes, and a seed for its numbers."""

    T: int
    K: int = 1
    G: int = 1
    h: int = 64
    block: int = 64
    n: int = 3
    B: int = 1
    documents: int = 0
    seed: int = 0
    dtype: str = "float32"

    @property
    def num_blocks(self):
        return num_blocks(self.T, self.block)

    @property
    def hidden(self):
        """A block that no token selects, where there are several."""
        return self.num_blocks // 2 if self.num_blocks > 1 else None

    def inputs(self):
        """Ids in no order, with duplicates, padding and future blocks; about one token in eight sees nothing."""
        rng = np.random.default_rng(self.seed)

        def normal(*shape, dtype=self.dtype):
            return jnp.asarray(rng.normal(size=shape), dtype)

        H, token = self.K * self.G, np.arange(self.T)
        ids = rng.integers(-1, self.num_blocks, (self.B, self.K, self.T, self.n))
        slot = rng.integers(self.n, size=ids.shape[:3])
        np.put_along_axis(ids, slot[..., None], np.broadcast_to(token // self.block, slot.shape)[..., None], -1)
        ids[rng.random(ids.shape[:3]) < 1 / 8] = -1
        if self.hidden is not None:
            ids[ids == self.hidden] = -1
        segments = None
        if self.documents:
            segments = jnp.asarray(np.sort(rng.integers(self.documents, size=(self.B, self.T)), axis=1), jnp.int32)
        return Inputs(
            normal(self.B, self.T, H, self.h),
            normal(self.B, self.T, self.K, self.h),
            normal(self.B, self.T, self.K, self.h),
            jnp.asarray(ids, jnp.int32),
            segments,
            normal(self.B, self.T, H, self.h),
            normal(self.B, H, self.T, dtype="float32"),
        )


@dataclasses.dataclass(frozen=True)
class Runner:
    """How tests run a backend where its chip is not: the interpreter, its dtype, and how exact it is then."""

    backend: api.Backend
    dtype: str
    tolerance: float

    def interpret(self):
        if self.backend == "pallas_tpu":
            return True
        if self.backend == "pallas_gpu":
            from jax.experimental.pallas import mosaic_gpu as plgpu

            return plgpu.InterpretGPUParams()
        return None

    def attention(self, block):
        """(q, k, v, ids, segments) -> (o, lse) of this backend, compiled."""

        @jax.jit
        def run(q, k, v, ids, segments):
            return api.block_sparse_attention(
                q, k, v, ids, block=block, segments_BT=segments, backend=self.backend, interpret=self.interpret()
            )

        return run


REFERENCE = Runner("reference", "float32", 0.0)
XLA = Runner("xla", "float32", 2e-5)
RUNNERS = {
    "xla": XLA,
    "pallas_tpu": Runner("pallas_tpu", "float32", 2e-5),
    "pallas_gpu": Runner("pallas_gpu", "bfloat16", 2e-2),
}


def results(case, runner):
    """o, lse, dq, dk and dv as float32 numpy arrays; the reference computes in float32 from the same numbers."""
    x = case.inputs()
    if runner is REFERENCE:
        x = Inputs(*(a if a is None or a.dtype == jnp.int32 else a.astype(jnp.float32) for a in x))

    # unoptimised: compiling takes longer than running
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(x):
        attention = functools.partial(
            api.block_sparse_attention,
            block=case.block,
            segments_BT=x.segments,
            backend=runner.backend,
            interpret=runner.interpret(),
        )
        out, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, x.ids), x.q, x.k, x.v)
        return (*out, *pullback((x.do, x.dlse)))

    return {name: np.asarray(a, np.float32) for name, a in zip(("o", "lse", "dq", "dk", "dv"), run(x), strict=True)}


def assert_close(got, want, tolerance):
    """Every array within `tolerance` of the wanted one, measured in its largest finite number or 1."""
    for name in want:
        finite = np.isfinite(want[name])
        np.testing.assert_array_equal(np.isfinite(got[name]), finite, err_msg=name)
        size = max(1.0, np.abs(want[name], where=finite, out=np.zeros_like(want[name])).max())
        np.testing.assert_allclose(
            got[name][finite] / size, want[name][finite] / size, rtol=0, atol=tolerance, err_msg=name
        )


def check(case, runner):
    """A backend against the reference: results and gradients, and exact zeros where nobody looked."""
    case = dataclasses.replace(case, dtype=runner.dtype)
    got = results(case, runner)
    assert_close(got, results(case, REFERENCE), runner.tolerance)
    if case.hidden is not None:
        keys = slice(case.hidden * case.block, (case.hidden + 1) * case.block)
        assert not got["dk"][:, keys].any()
        assert not got["dv"][:, keys].any()


def largest_array(function, *arguments):
    """Elements of the largest array that a traced function makes, loops' bodies and inner programs included."""

    def inside(jaxpr):
        for equation in jaxpr.eqns:
            yield from (math.prod(v.aval.shape) for v in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from inside(inner)

    return max(inside(jax.make_jaxpr(function)(*arguments).jaxpr))
