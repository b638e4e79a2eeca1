"""The MiniCPM decoder under muP, as a Flax NNX module, and the functions through which all else uses it.

`init` gives parameters as a nested dict of arrays, `features` turns parameters and tokens into what the output table
of `output_table` is multiplied with; `apply` multiplies them to logits. NNX is the definition of the tree and nothing
more: these are plain functions for jax.jit, grad and vmap.

muP, and which reading of it (MiniCPM, arXiv 2404.06395, appendix A.1, table 7; m = d_model / mup_base_width):

=====================  ==========================================  =====================
tensor                 initial standard deviation                  learning rate
=====================  ==========================================  =====================
hidden matrices        init_std / sqrt(m)                          base / m
embedding and head     init_std                                    base
RMSNorm gains          (ones)                                      base
=====================  ==========================================  =====================

and, in the forward pass, embedding output * scale_emb, output of every attention and MLP block
* scale_depth / sqrt(L), final norm's output / m right before the head. This is how OpenBMB's training engine
implements the table. Read literally, the table would also scale the embedding and the head, being 2-D tensors,
and start "other parameters" at 0.1. We do not: the embedding's fan-in is the vocabulary, which does not grow with
width; the head's does, and dividing the logits by m already answers it; and gains of 0.1 would shrink the input of
every block tenfold, which nothing in the paper explains.

Axis letters: models/README.md.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from kernels.sparse_attention import api
from kernels.sparse_attention.config import Backend
from models.attention import Attend, Attention, Implementation, dense, rope_tables, sparse
from models.config import ModelConfig
from models.layers import RMSNorm, SwiGLU

Params = dict[str, Any]


class Scales(NamedTuple):
    """The forward pass's tuned multipliers: numbers or traced scalars, so that runs may differ in them in one program.

    Attributes:
        embedding: of the embedding output, `scale_emb`.
        residual: every block output is multiplied by this over sqrt(L), `scale_depth`.
    """

    embedding: ArrayLike
    residual: ArrayLike


class Block(nnx.Module):
    """One layer: pre-norm attention and pre-norm SwiGLU, each added to the residual stream times `residual_scale`."""

    def __init__(self, config: ModelConfig, init_std: ArrayLike, key: jax.Array):
        attention_key, mlp_key = jax.random.split(key)
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, attention_key, init_std)
        self.mlp_norm = RMSNorm(config)
        self.mlp = SwiGLU(config, mlp_key, init_std)

    def __call__(
        self, x_BTD: jax.Array, residual_scale: jax.Array, rope: tuple[jax.Array, jax.Array], attend: Attend
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        mixed_BTD = self.attention(self.attention_norm(x_BTD), rope, attend)
        x_BTD += residual_scale * mixed_BTD
        x_BTD += residual_scale * self.mlp(self.mlp_norm(x_BTD))
        return x_BTD


class Decoder(nnx.Module):
    """Embedding, L blocks stacked on a leading axis, final norm; and the table of an untied head."""

    def __init__(self, config: ModelConfig, key: jax.Array, init_std: ArrayLike):
        embedding_key, head_key, blocks_key = jax.random.split(key, 3)
        table = (config.vocab_size, config.d_model)
        self.config = config
        self.embedding = nnx.Param(init_std * jax.random.normal(embedding_key, table, jnp.float32))
        block = functools.partial(Block, config, init_std)
        self.blocks = nnx.vmap(block)(jax.random.split(blocks_key, config.num_layers))
        self.final_norm = RMSNorm(config)
        if not config.tied_embeddings:
            # [V, D] like the embedding, so that untying a trained model is a copy.
            self.head = nnx.Param(init_std * jax.random.normal(head_key, table, jnp.float32))

    def __call__(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array | None,
        scales: Scales,
        unroll: int,
        remat: Literal["none", "block"],
        attention: Implementation,
        sparse_backend: Backend,
    ) -> jax.Array:
        """Tokens [B, T] -> features [B, T, D], ready for the output table, in the compute dtype."""
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        T = tokens_BT.shape[1]
        embedding_scale = jnp.asarray(scales.embedding, dtype)
        residual_scale = (jnp.asarray(scales.residual) / config.num_layers**0.5).astype(dtype)
        rope, spans = rope_tables(config, T), config.layer_spans(T)
        attends: dict[str, Attend] = {}
        for kind in dict.fromkeys(span.kind for span in spans):  # what they are told of the row is computed once
            if kind == "dense":
                attends[kind] = dense(attention, T, segments_BT)
            elif config.sparse is not None:
                attends[kind] = sparse(config.sparse, segments_BT, sparse_backend)
        block_definition, blocks = nnx.split(self.blocks)

        def layer(attend: Attend, x_BTD: jax.Array, weights: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(block_definition, weights)(x_BTD, residual_scale, rope, attend), None

        x_BTD = embedding_scale * self.embedding[...][tokens_BT].astype(dtype)
        for kind, first, last in spans:
            step = functools.partial(layer, attends[kind])
            own = blocks if len(spans) == 1 else jax.tree.map(lambda w, part=slice(first, last): w[part], blocks)
            x_BTD, _ = jax.lax.scan(jax.checkpoint(step) if remat == "block" else step, x_BTD, own, unroll=unroll)
        return self.final_norm(x_BTD) / config.width_multiplier


@functools.lru_cache
def _definition(config: ModelConfig) -> nnx.GraphDef[Decoder]:
    """The decoder's static part, from abstract shapes."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, jax.random.key(0), config.init_std)))[0]


@functools.partial(jax.jit, static_argnums=0)
def init(config: ModelConfig, seed: int | jax.Array, init_std: ArrayLike | None = None) -> Params:
    """Fresh parameters: a nested dict of float32 arrays, those of the blocks stacked on a leading axis L.

    Standard deviations: the table of this module's docstring.

    Args:
        config: the model.
        seed: of all draws; data, like `init_std`: one compiled program serves every seed.
        init_std: in place of the config's, which is None.
    """
    std = config.init_std if init_std is None else init_std
    params: Params = nnx.to_pure_dict(nnx.split(Decoder(config, jax.random.key(seed), std))[1])
    return params


def features(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    scales: Scales | None = None,
    unroll: int = 1,
    remat: Literal["none", "block"] = "none",
    attention: Implementation = "batched_matmul",
    sparse_backend: Backend = "auto",
) -> jax.Array:
    """What the output table turns into logits: the final norm's output over m, [B, T, D] in the compute dtype.

    Args:
        config: the model.
        params: as `init` gives them.
        tokens_BT: int32 tokens.
        segments_BT: int32 document numbers; a position sees earlier positions of its own document only. None:
            the whole row is one document. Rotary positions run along the row, being relative.
        scales: in place of the config's `scale_emb` and `scale_depth`, which is None.
        unroll: layers unrolled in the scan over layers (changes last digits at most).
        remat: "block" recomputes each block's activations in the backward pass.
        attention: "batched_matmul" (fast on a CPU), "dot_product_attention" (jax.nn's, for accelerators) or "cudnn"
            (flash attention on an NVIDIA GPU, bfloat16 only); of dense layers.
        sparse_backend: of sparse layers, a name of `kernels.sparse_attention`; "auto" takes the fastest that can.
    """
    decoder = nnx.merge(_definition(config), params)
    own = Scales(config.scale_emb, config.scale_depth)
    return decoder(tokens_BT, segments_BT, scales or own, unroll, remat, attention, sparse_backend)


def output_table(config: ModelConfig, params: Params) -> jax.Array:
    """The table whose rows, times the features, are logits: [V, D] in the compute dtype; tied, the embedding."""
    table_VD: jax.Array = params["embedding" if config.tied_embeddings else "head"]
    return table_VD.astype(config.compute_dtype)


def apply(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    **how: Any,
) -> jax.Array:
    """Logits of the next token at every position, [B, T, V] float32; arguments as `features` takes them."""
    x_BTD, table_VD = features(config, params, tokens_BT, segments_BT, **how), output_table(config, params)
    logits = jnp.einsum("nd,vd->nv", x_BTD.reshape(-1, config.d_model), table_VD, preferred_element_type=jnp.float32)
    return logits.reshape(*tokens_BT.shape, -1)


def sparse_backend(config: ModelConfig, rows: int, length: int) -> Backend | None:
    """The backend that sparse layers run here on `rows` rows of `length` tokens; None where none is sparse at it."""
    if config.sparse is None or all(span.kind == "dense" for span in config.layer_spans(length)):
        return None
    q_shape, k_shape = ((rows, length, heads, config.head_dim) for heads in (config.num_heads, config.num_kv_heads))
    return api.resolve("auto", q_shape, k_shape, jnp.dtype(config.compute_dtype), config.sparse.block, True)
