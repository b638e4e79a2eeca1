"""Block-sparse attention for callers: selection, attention over selected blocks, and both in one.

Backends are named, never guessed silently: "auto" takes the kernel of the chip it runs on; where that kernel cannot
run the arguments it warns once with the reason and takes "xla". `resolve` says beforehand which one it will be, so
that a run can record it. A backend that is asked for by name and cannot run is an error. Contract: README.md.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.sparse_attention import dense, reference, selection
from kernels.sparse_attention.config import Backend, SelectionConfig, num_blocks

Shape = tuple[int, ...]

# Queries scored at a time: without a kernel the pooled keys' scores of a chunk exist, with one the blocks' alone.
_CHUNK = {"reference": 128, "xla": 128, "pallas_gpu": 4096, "pallas_tpu": 4096}
_KERNEL_OF_PLATFORM: dict[str, Backend] = {"gpu": "pallas_gpu", "tpu": "pallas_tpu"}


class KernelFallbackWarning(UserWarning):
    """The kernel of this chip cannot run these arguments, and a slower backend is used."""


class AttentionKernels(NamedTuple):
    """What a backend gives; pure functions.

    Attributes:
        forward: (q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, *, block, scale, interpret) -> (o_BTHh, lse_BHT).
        backward: (q, k, v, ids, segments, o_BTHh, lse_BHT, do_BTHh, delta_BHT, *, block, scale, interpret)
            -> (dq, dk, dv); delta = rowsum(do * o) - dlse, float32.
        unsupported: (q_shape, k_shape, dtype, block, has_segments) -> a sentence that names what it can, or None.
    """

    forward: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    unsupported: Callable[..., str | None]


class ScoringKernels(NamedTuple):
    """What a backend gives for selection.

    Attributes:
        block_scores: as `selection.block_scores`, and `interpret` by name.
        unsupported: (q_shape, k_shape, dtype, config, has_segments) -> a sentence that names what it can, or None.
    """

    block_scores: Callable[..., jax.Array]
    unsupported: Callable[..., str | None]


def resolve(backend: Backend, q_shape: Shape, k_shape: Shape, dtype: Any, block: int, has_segments: bool) -> Backend:
    """The backend that `block_sparse_attention` runs for such arguments: never "auto".

    Args:
        backend: as asked for.
        q_shape: [B, T, H, h].
        k_shape: [B, S, K, h].
        dtype: of q, k and v.
        block: tokens of a block.
        has_segments: whether documents are told apart.

    Raises:
        ValueError: the backend was named and cannot run such arguments.
    """
    return _resolve(
        backend, lambda name: _attention_kernels(name).unsupported(q_shape, k_shape, dtype, block, has_segments)
    )


def select_blocks(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    config: SelectionConfig,
    *,
    segments_BT: jax.Array | None = None,
    backend: Backend = "auto",
    chunk: int | None = None,
    interpret: Any = None,
) -> jax.Array:
    """InfLLM v2's visible blocks of every token and key-value head, without gradient.

    Args:
        q_BTHh: queries, rotated.
        k_BSKh: keys, rotated; S = T.
        config: the selection.
        segments_BT: int32 documents; a token chooses among the blocks of its own, from the one where it starts.
        backend: "reference" and "xla" are one here.
        chunk: queries whose scores exist at a time; None: the backend's.
        interpret: interpreter parameters of a Pallas backend.

    Returns:
        ids_BKTn int32, n = min(config.blocks, N), ascending, -1 at the end.
    """
    _check_shapes(q_BTHh, k_BSKh, segments_BT)
    arguments = (q_BTHh.shape, k_BSKh.shape, q_BTHh.dtype, config, segments_BT is not None)
    name = _resolve(backend, lambda name: _scoring_kernels(name).unsupported(*arguments))
    scorer: selection.Scorer = selection.block_scores
    _check_chip(name, interpret)
    if name in ("pallas_gpu", "pallas_tpu"):
        scorer = functools.partial(_scoring_kernels(name).block_scores, interpret=interpret)
    return selection.select_blocks(q_BTHh, k_BSKh, config, segments_BT, chunk or _CHUNK[name], scorer)


def block_sparse_attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    *,
    block: int = 64,
    scale: float | None = None,
    segments_BT: jax.Array | None = None,
    backend: Backend = "auto",
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Causal attention of every query over the keys in its blocks; differentiable in q, k and v, through both results.

    Args:
        q_BTHh: queries, H = G K heads.
        k_BSKh: keys, S = T.
        v_BSKh: values.
        ids_BKTn: int32 visible blocks of each token and key-value head, in any order; -1 is padding, duplicates count
            once. Keys after the query stay invisible.
        block: tokens of a block; the last may be partial.
        scale: of the scores, h^-0.5 if None.
        segments_BT: int32 documents; a query sees keys of its own only.
        backend: which implementation.
        interpret: interpreter parameters of a Pallas backend.

    Returns:
        o_BTHh in the queries' dtype, and lse_BHT, the log-sum-exp (base e) of the visible scores, float32. A query that
        sees nothing has o = 0 and lse = -inf.

    Raises:
        ValueError: shapes that do not fit, an id outside of [-1, N) in a concrete array (in a traced one it counts as
            padding), or a backend that was named and cannot run this.
    """
    _check_shapes(q_BTHh, k_BSKh, segments_BT)
    _check_ids(ids_BKTn, q_BTHh.shape, k_BSKh.shape, block)
    if v_BSKh.shape != k_BSKh.shape:
        raise ValueError(f"v has shape {v_BSKh.shape} and k {k_BSKh.shape}: they must be equal")
    scale = q_BTHh.shape[-1] ** -0.5 if scale is None else scale
    name = resolve(backend, q_BTHh.shape, k_BSKh.shape, q_BTHh.dtype, block, segments_BT is not None)
    _check_chip(name, interpret)
    if name == "reference":
        return reference.attention(q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, block=block, scale=scale)
    N = num_blocks(k_BSKh.shape[1], block)
    ids_BKTn = jnp.where((ids_BKTn >= 0) & (ids_BKTn < N), ids_BKTn, -1).astype(jnp.int32)
    return _attend(q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, _How(name, block, scale, interpret))


def sparse_attention(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    config: SelectionConfig,
    *,
    segments_BT: jax.Array | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """InfLLM v2 attention: selection, then attention over what was selected; rows up to `dense_len` densely.

    Dense rows are computed block by block in XLA (memory linear in T), or by cuDNN where the backend is "pallas_gpu"
    and the dtype one of 16 bits.

    Args:
        q_BTHh: queries, rotated.
        k_BSKh: keys, rotated; S = T.
        v_BSKh: values.
        config: the selection.
        segments_BT: int32 documents; a query sees keys of its own only.
        backend: which implementation.

    Returns:
        o_BTHh in the queries' dtype.
    """
    if q_BTHh.shape[1] <= config.dense_len:
        _check_shapes(q_BTHh, k_BSKh, segments_BT)
        name = resolve(backend, q_BTHh.shape, k_BSKh.shape, q_BTHh.dtype, config.block, segments_BT is not None)
        return dense.attention(q_BTHh, k_BSKh, v_BSKh, segments_BT, cudnn=name == "pallas_gpu")
    ids_BKTn = select_blocks(q_BTHh, k_BSKh, config, segments_BT=segments_BT, backend=backend)
    return block_sparse_attention(
        q_BTHh, k_BSKh, v_BSKh, ids_BKTn, block=config.block, segments_BT=segments_BT, backend=backend
    )[0]


class _How(NamedTuple):
    """What of a call is not an array."""

    backend: Backend
    block: int
    scale: float
    interpret: Any

    def arguments(self) -> dict[str, Any]:
        return {"block": self.block, "scale": self.scale, "interpret": self.interpret}


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    how: _How,
) -> tuple[jax.Array, jax.Array]:
    forward = _attention_kernels(how.backend).forward
    return forward(q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, **how.arguments())


def _attend_forward(*arguments: Any) -> tuple[Any, Any]:
    o_BTHh, lse_BHT = _attend(*arguments)
    return (o_BTHh, lse_BHT), (*arguments[:5], o_BTHh, lse_BHT)


def _attend_backward(how: _How, saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, o_BTHh, lse_BHT = saved
    do_BTHh, dlse_BHT = cotangents
    rows_BTH = jnp.sum(do_BTHh.astype(jnp.float32) * o_BTHh.astype(jnp.float32), axis=-1)
    # d lse / d s = p, as if each score had a second way to the loss. A row that sees nothing has no p, whatever
    # (perhaps nan) comes back to its -inf.
    delta_BHT = rows_BTH.swapaxes(1, 2) - jnp.where(lse_BHT > -jnp.inf, dlse_BHT, 0.0)
    backward = _attention_kernels(how.backend).backward
    gradients = backward(
        q_BTHh, k_BSKh, v_BSKh, ids_BKTn, segments_BT, o_BTHh, lse_BHT, do_BTHh, delta_BHT, **how.arguments()
    )
    return (*gradients, None, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _attention_kernels(name: Backend) -> AttentionKernels:
    """Of a backend; imported when used, for a kernel's module loads the compiler of its chip."""
    if name == "pallas_gpu":
        from kernels.sparse_attention import pallas_gpu, pallas_gpu_backward

        return AttentionKernels(pallas_gpu.forward, pallas_gpu_backward.backward, pallas_gpu.unsupported)
    if name == "pallas_tpu":
        from kernels.sparse_attention import pallas_tpu, pallas_tpu_backward

        return AttentionKernels(pallas_tpu.forward, pallas_tpu_backward.backward, pallas_tpu.unsupported)
    from kernels.sparse_attention import xla

    return AttentionKernels(xla.forward, xla.backward, lambda *_: None)


def _scoring_kernels(name: Backend) -> ScoringKernels:
    if name == "pallas_gpu":
        from kernels.sparse_attention import scoring_gpu

        return ScoringKernels(scoring_gpu.block_scores, scoring_gpu.unsupported)
    if name == "pallas_tpu":
        from kernels.sparse_attention import scoring_tpu

        return ScoringKernels(scoring_tpu.block_scores, scoring_tpu.unsupported)
    return ScoringKernels(selection.block_scores, lambda *_: None)


def _resolve(backend: Backend, unsupported: Callable[[Backend], str | None]) -> Backend:
    if backend not in _CHUNK and backend != "auto":
        raise ValueError(f"sparse attention backend {backend!r}: use one of {', '.join(('auto', *_CHUNK))}")
    if backend in ("reference", "xla"):
        return backend
    if backend == "auto":
        kernel = _KERNEL_OF_PLATFORM.get(_platform())
        if kernel is None:
            return "xla"
        reason = unsupported(kernel)
        if reason is None:
            return kernel
        _warn_once(f"{kernel} cannot run this sparse attention, xla is used: {reason}")
        return "xla"
    reason = unsupported(backend)
    if reason is not None:
        raise ValueError(f"{backend} cannot run this sparse attention: {reason}; or use backend='xla'")
    return backend


def _platform() -> str:
    """What is computed on: the abstract device that a program is lowered for, else this process's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def _check_chip(name: Backend, interpret: Any) -> None:
    """That a kernel, named or not, is on its chip, or in an interpreter."""
    platform = _platform()
    for chip, kernel in _KERNEL_OF_PLATFORM.items():
        if name == kernel and interpret is None and platform != chip:
            raise ValueError(
                f"{name} runs on a {chip.upper()}, and this process computes on a {platform}: use backend='auto' or "
                "'xla', or give interpret"
            )


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, KernelFallbackWarning, stacklevel=4)


def _check_shapes(q_BTHh: jax.Array, k_BSKh: jax.Array, segments_BT: jax.Array | None) -> None:
    if q_BTHh.ndim != 4 or k_BSKh.ndim != 4:
        raise ValueError(f"q has shape {q_BTHh.shape} and k {k_BSKh.shape}: they must be [B, T, H, h] and [B, T, K, h]")
    (B, T, H, h), (b, S, K, hk) = q_BTHh.shape, k_BSKh.shape
    if (B, T, h) != (b, S, hk):
        raise ValueError(
            f"q has shape {q_BTHh.shape} and k {k_BSKh.shape}: they may differ in the number of heads alone"
        )
    if K == 0 or H % K:
        raise ValueError(f"{H} query heads are not a multiple of {K} key-value heads")
    if segments_BT is not None and segments_BT.shape != (B, T):
        raise ValueError(f"segments have shape {segments_BT.shape}: they must be [B, T] = {(B, T)}")


def _check_ids(ids_BKTn: jax.Array, q_shape: Shape, k_shape: Shape, block: int) -> None:
    if block < 1:
        raise ValueError(f"block {block}: a block has at least one token")
    B, T, K, N = *q_shape[:2], k_shape[2], num_blocks(k_shape[1], block)
    if ids_BKTn.ndim != 4 or ids_BKTn.shape[:3] != (B, K, T):
        raise ValueError(
            f"ids have shape {ids_BKTn.shape}: they must cover every token, [B, K, T, n] = [{B}, {K}, {T}, n]"
        )
    if not jnp.issubdtype(ids_BKTn.dtype, jnp.integer):
        raise ValueError(f"ids are {ids_BKTn.dtype}: they must be integers")
    if isinstance(ids_BKTn, jax.core.Tracer) or ids_BKTn.size == 0:
        return
    concrete = np.asarray(ids_BKTn)
    least, most = int(concrete.min()), int(concrete.max())
    if least < -1 or most >= N:
        wrong = least if least < -1 else most
        raise ValueError(f"ids hold {wrong}: a row of {k_shape[1]} tokens has blocks 0 to {N - 1} of {block}, -1 pads")
