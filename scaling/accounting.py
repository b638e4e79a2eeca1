"""Parameters by group and FLOPs by term, counted from a model's config alone.

A multiply-add is 2 FLOPs. Norms, softmax, rotary embedding and the embedding's gather are left out, as everywhere.
"""

import dataclasses
from typing import Literal

from models.config import COARSENING, ModelConfig, SelectionConfig

Convention = Literal["6ND", "6ND_total", "counted"]


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
    """Parameters by group; `head` is 0 where it is the embedding table."""

    embedding: int
    head: int
    attention: int
    mlp: int
    norms: int

    @property
    def non_embedding(self) -> int:
        """N: everything but the embedding and an untied head (MiniCPM, section 6.1, table 2)."""
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        """All parameters."""
        return self.non_embedding + self.embedding + self.head


def parameter_counts(config: ModelConfig) -> ParameterCounts:
    """How many parameters each group of a model has."""
    D, table = config.d_model, config.vocab_size * config.d_model
    heads = 2 * config.num_heads + 2 * config.num_kv_heads  # query and output; key and value
    return ParameterCounts(
        embedding=table,
        head=0 if config.tied_embeddings else table,
        attention=config.num_layers * heads * config.head_dim * D,
        mlp=config.num_layers * 3 * D * config.d_ff,
        norms=(2 * config.num_layers + 1) * D,
    )


@dataclasses.dataclass(frozen=True)
class FlopsPerToken:
    """FLOPs of the forward pass for one token, by term.

    Attributes:
        projections: query, key, value and output matrices.
        attention: scores and weighted values over the average number of visible tokens, all layers.
        mlp: the three matrices of SwiGLU.
        head: logits.
        selection: of sparse layers, scores of pooled keys, by which the visible blocks are chosen.
    """

    projections: float
    attention: float
    mlp: float
    head: float
    selection: float = 0.0

    @property
    def forward(self) -> float:
        """Forward pass."""
        return self.projections + self.attention + self.mlp + self.head + self.selection

    @property
    def training(self) -> float:
        """Forward and backward, which has two products for each of the forward pass but the selection's."""
        return 3 * (self.forward - self.selection) + self.selection


def visible_tokens(sparse: SelectionConfig, sequence_length: int) -> float:
    """Tokens that a query of a causal row sees on average under a selection: whole blocks, and its own up to itself.

    Queries with no more blocks before them than the selection has places see all of them, as densely.
    """
    block, T = sparse.block, sequence_length
    whole, rest = divmod(T, block)
    # the query at offset r of block b sees min(b, blocks - 1) whole blocks and r + 1 tokens of its own
    others = sum(min(b, sparse.blocks - 1) for b in range(whole)) * block + min(whole, sparse.blocks - 1) * rest
    own = whole * block * (block + 1) // 2 + rest * (rest + 1) // 2
    return (others * block + own) / T


def scored_keys(sparse: SelectionConfig, sequence_length: int) -> float:
    """Pooled keys that a query of a causal row is scored with on average: those that end at or before it.

    Under the "coarse" normaliser also those of its log-sum-exp, pooled coarser (InfLLM-V2, section 3.4).
    """
    fine = _pooled_keys(sparse.kernel, sparse.stride, sequence_length)
    if sparse.normaliser == "exact":
        return fine
    return fine + _pooled_keys(COARSENING * sparse.kernel, COARSENING * sparse.stride, sequence_length)


def _pooled_keys(kernel: int, stride: int, length: int) -> float:
    """Windows of `kernel` tokens, `stride` apart, that end at or before a token of the row, on average."""
    windows = max(0, (length - kernel) // stride + 1)
    # window j is seen by every token from its last one, j stride + kernel - 1, on
    return sum(length - (j * stride + kernel - 1) for j in range(windows)) / length


def flops_per_token(config: ModelConfig, sequence_length: int) -> FlopsPerToken:
    """FLOPs per token of a causal row of `sequence_length` tokens that is one document."""
    counts, heads = parameter_counts(config), config.num_heads * config.head_dim
    layers = {"dense": 0, "sparse": 0}
    for kind, first, last in config.layer_spans(sequence_length):
        layers[kind] += last - first
    seen, scored = layers["dense"] * (sequence_length + 1) / 2, 0.0
    if config.sparse is not None and layers["sparse"]:
        seen += layers["sparse"] * visible_tokens(config.sparse, sequence_length)
        scored = layers["sparse"] * scored_keys(config.sparse, sequence_length)
    return FlopsPerToken(
        projections=2 * counts.attention,
        attention=4 * seen * heads,
        mlp=2 * counts.mlp,
        head=2 * counts.embedding,
        selection=2 * scored * heads,
    )


def training_flops(
    config: ModelConfig, sequence_length: int, tokens: float, convention: Convention = "counted"
) -> float:
    """FLOPs of training on `tokens` tokens under a named convention.

    Args:
        config: the model.
        sequence_length: T; matters to "counted" only.
        tokens: D.
        convention: "6ND": 6 N D with N without embeddings (Kaplan et al., arXiv 2001.08361, section 2.1; what
            MiniCPM's law uses); "6ND_total": with N of all parameters; "counted": by term, with attention and head
            (close to Chinchilla's appendix F, arXiv 2203.15556, but for its full T of context).
    """
    match convention:
        case "6ND":
            return 6.0 * parameter_counts(config).non_embedding * tokens
        case "6ND_total":
            return 6.0 * parameter_counts(config).total * tokens
        case "counted":
            return flops_per_token(config, sequence_length).training * tokens
