"""What a model is, as data. Imports no jax, so that plans, reports and laws may read it."""

import dataclasses
import itertools
import math
from typing import Literal, NamedTuple

from kernels.sparse_attention.config import COARSENING as COARSENING  # these are part of what a model is
from kernels.sparse_attention.config import Backend as Backend
from kernels.sparse_attention.config import SelectionConfig as SelectionConfig

# Metadata of a config field that came after runs existed: at its default it is left out of the config's JSON, so that
# ids and recorded texts of configs that never heard of it stay what they were.
LEFT_OUT_AT_DEFAULT = {"left_out_at_default": True}


class LayerSpan(NamedTuple):
    """Layers first .. last-1, which follow each other and attend in one way."""

    kind: Literal["dense", "sparse"]
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched, so that rows longer than those trained on turn by angles that are known.

    Attributes:
        kind: "ntk": the base times factor^(h/(h-2)), which divides the slowest frequency by `factor` and leaves the
            fastest (NTK-aware scaling; bloc97, 2023). "dynamic_ntk": the same with factor T / original_length -
            (factor - 1) for rows of T > original_length, and nothing for others (the released MiniCPM-2B-128k).
            "longrope": every frequency divided by a number of its own (Ding et al., arXiv 2402.13753; MiniCPM4).
        factor: the longest row meant, over `original_length`.
        original_length: T before; "ntk" alone does not need it.
        long_factors: of "longrope": h/2 divisors, for rows longer than `original_length`.
        short_factors: of "longrope": h/2 divisors, for other rows.
    """

    kind: Literal["ntk", "dynamic_ntk", "longrope"]
    factor: float
    original_length: int = 0
    long_factors: tuple[float, ...] = ()
    short_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("ntk", "dynamic_ntk", "longrope"):
            raise ValueError(f"rope_scaling.kind {self.kind!r}: use 'ntk', 'dynamic_ntk' or 'longrope'")
        if not self.factor >= 1:
            raise ValueError(f"rope_scaling.factor is {self.factor:g}: rows grow, by a factor of at least 1")
        if self.kind != "ntk" and self.original_length < 2:
            raise ValueError(
                f"rope_scaling.original_length is {self.original_length}: {self.kind!r} needs the length of the rows "
                f"trained on so far"
            )
        factors = bool(self.long_factors), bool(self.short_factors)
        if factors != (self.kind == "longrope",) * 2:
            raise ValueError(
                f"rope_scaling {self.kind!r}: long_factors and short_factors belong to 'longrope', which needs both"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A MiniCPM decoder: pre-RMSNorm, RoPE, grouped-query attention, SwiGLU, muP scaling.

    Source: MiniCPM (arXiv 2404.06395), sections 3 and 6.1, appendix A.1 table 7.

    Attributes:
        vocab_size: V, rows of the embedding table.
        num_layers: L.
        d_model: D, the width.
        num_heads: H, query heads.
        num_kv_heads: K, key-value heads; divides `num_heads`.
        head_dim: width of one head, even (RoPE rotates pairs).
        d_ff: F, width of the SwiGLU hidden layer.
        tied_embeddings: whether the output head is the embedding table.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: epsilon inside RMSNorm.
        scale_emb: multiplier of the embedding output.
        scale_depth: every block output is multiplied by `scale_depth / sqrt(num_layers)`.
        init_std: standard deviation of 2-D tensors at `mup_base_width`.
        mup_base_width: width at which muP multipliers are 1: 256 for the released models, the search
            width for a ladder.
        compute_dtype: "float32" or "bfloat16"; parameters are float32 always.
        attention: "dense" or "sparse", or a tuple of these, one for each layer. The parameters are the same.
        sparse: which key blocks a token sees in sparse layers; needed where there are any.
        rope_scaling: of the rotary frequencies; None leaves them as `rope_theta` gives them.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    tied_embeddings: bool = True
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-5
    scale_emb: float = 12.0
    scale_depth: float = 1.4
    init_std: float = 0.1
    mup_base_width: int = 256
    compute_dtype: str = "float32"
    attention: str | tuple[str, ...] = dataclasses.field(default="dense", metadata=LEFT_OUT_AT_DEFAULT)
    sparse: SelectionConfig | None = dataclasses.field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    rope_scaling: RopeScaling | None = dataclasses.field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "num_layers", "d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}: it must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"model.num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim {self.head_dim} is odd: rotary embeddings rotate pairs")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.compute_dtype {self.compute_dtype!r}: use 'float32' or 'bfloat16'")
        self._check_attention()
        stretched = self.rope_scaling.long_factors + self.rope_scaling.short_factors if self.rope_scaling else ()
        if len(stretched) not in (0, self.head_dim):
            raise ValueError(
                f"rope_scaling has {len(stretched)} long_factors and short_factors: head_dim {self.head_dim} needs "
                f"{self.head_dim // 2} of each"
            )

    def _check_attention(self) -> None:
        kinds = self.attention_kinds
        if len(kinds) != self.num_layers or not set(kinds) <= {"dense", "sparse"}:
            raise ValueError(
                f"model.attention is {self.attention!r}: use 'dense', 'sparse', or a tuple of these, one for each of "
                f"{self.num_layers} layers"
            )
        if ("sparse" in kinds) != (self.sparse is not None):
            raise ValueError(
                f"model.attention is {self.attention!r} and model.sparse is {self.sparse}: sparse layers need a "
                f"SelectionConfig, and a model without them has none"
            )
        if len(set(kinds)) == 1:  # one way to write a model, so that it has one id
            object.__setattr__(self, "attention", kinds[0])

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """How each layer attends: "dense" or "sparse"."""
        return (self.attention,) * self.num_layers if isinstance(self.attention, str) else self.attention

    def layer_spans(self, length: int) -> list[LayerSpan]:
        """The layers in spans that attend in one way to rows of `length`: up to `sparse.dense_len` that is dense."""
        always_dense = self.sparse is None or length <= self.sparse.dense_len
        spans = []
        for dense, layers in itertools.groupby(
            range(self.num_layers), key=lambda layer: always_dense or self.attention_kinds[layer] == "dense"
        ):
            numbers = list(layers)
            spans.append(LayerSpan("dense" if dense else "sparse", numbers[0], numbers[-1] + 1))
        return spans

    @property
    def width_multiplier(self) -> float:
        """M = d_model / mup_base_width, the muP width multiplier (MiniCPM table 7)."""
        return self.d_model / self.mup_base_width

    def compiled(self) -> "ModelConfig":
        """The model that programs are compiled for: what enters them as data is at its default.

        Runs that differ in nothing but `scale_emb`, `scale_depth` and `init_std` share one program.
        """
        return dataclasses.replace(
            self,
            scale_emb=ModelConfig.scale_emb,
            scale_depth=ModelConfig.scale_depth,
            init_std=ModelConfig.init_std,
        )


def ntk_theta(theta: float, factor: float, head_dim: int) -> float:
    """The rotary base under which the slowest frequency is `factor` times slower and the fastest as it was.

    theta factor^(h/(h-2)): NTK-aware scaling, and a sound choice of an adjusted base (ABF) for rows so much longer.
    """
    return float(theta * factor ** (head_dim / (head_dim - 2)))


def _minicpm(vocab_size: int, num_layers: int, d_model: int, num_heads: int, num_kv_heads: int) -> ModelConfig:
    """MiniCPM proportions: head_dim 64 and d_ff = 2.5 d_model (tables 2 and 8)."""
    return ModelConfig(vocab_size, num_layers, d_model, num_heads, num_kv_heads, 64, d_model * 5 // 2)


# The wind-tunnel models (MiniCPM appendix A.3, table 8; the table gives no vocabulary, so the 120K one is
# meant) and the released models (section 6.1, table 2; vocabularies from the released configs).
NAMED: dict[str, ModelConfig] = {
    "minicpm-9m": _minicpm(122_753, 8, 320, 5, 5),
    "minicpm-30m": _minicpm(122_753, 12, 512, 8, 8),
    "minicpm-70m": _minicpm(122_753, 14, 640, 10, 10),
    "minicpm-0.1b": _minicpm(122_753, 16, 768, 12, 12),
    "minicpm-0.17b": _minicpm(122_753, 18, 896, 14, 14),
    "minicpm-0.2b": _minicpm(122_753, 20, 1024, 16, 16),
    "minicpm-0.5b": _minicpm(122_753, 24, 1344, 21, 21),
    "minicpm-1.2b": _minicpm(73_440, 52, 1536, 24, 8),
    "minicpm-2.4b": _minicpm(122_753, 40, 2304, 36, 36),
}


def ladder_model(width: int, vocab_size: int, base_width: int = 16) -> ModelConfig:
    """The ladder's one dial: a 4-layer decoder of this width, from about 12k non-embedding parameters.

    Depth is constant, so N grows as 46 width^2 and muP's width rule alone carries hyper-parameters along.
    Heads are never narrower than 32 once there are more than two of them: narrow heads cost time on a CPU and
    buy nothing at these sizes.

    Args:
        width: d_model, a multiple of 4.
        vocab_size: size of the task's vocabulary.
        base_width: the width at which the learning rate was searched (muP's base).
    """
    if width < 4 or width % 4:
        raise ValueError(f"ladder width {width}: it must be a positive multiple of 4")
    num_heads = max(2, width // 32)
    head_dim = 2 * math.ceil(width / num_heads / 2)
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=4,
        d_model=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        d_ff=width * 5 // 2,
        mup_base_width=base_width,
    )
