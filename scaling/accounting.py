"""Parameters by group and FLOPs by term, counted from a model's config alone.

A multiply-add is 2 FLOPs. Norms, softmax, rotary embedding and the embedding's gather are left out, as everywhere.
"""

import dataclasses
from typing import Literal

from models.config import ModelConfig

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
        attention: scores and weighted values over the average causal context, (T + 1) / 2.
        mlp: the three matrices of SwiGLU.
        head: logits.
    """

    projections: float
    attention: float
    mlp: float
    head: float

    @property
    def forward(self) -> float:
        """Forward pass."""
        return self.projections + self.attention + self.mlp + self.head

    @property
    def training(self) -> float:
        """Forward and backward: the backward pass has two products for each one of the forward pass."""
        return 3 * self.forward


def flops_per_token(config: ModelConfig, sequence_length: int) -> FlopsPerToken:
    """FLOPs per token of a causal row of `sequence_length` tokens that is one document."""
    counts = parameter_counts(config)
    context = (sequence_length + 1) / 2
    return FlopsPerToken(
        projections=2 * counts.attention,
        attention=config.num_layers * 4 * context * config.num_heads * config.head_dim,
        mlp=2 * counts.mlp,
        head=2 * counts.embedding,
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
