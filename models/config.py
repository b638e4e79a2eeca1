"""What a model is, as data. Imports no jax, so that plans, reports and laws may read it."""

import dataclasses
import math


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
