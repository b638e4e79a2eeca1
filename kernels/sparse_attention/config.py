"""What a selection of key blocks is, as data. Imports no jax, so that model configs and plans may hold it."""

import dataclasses
from typing import Literal

Backend = Literal["auto", "reference", "xla", "pallas_gpu", "pallas_tpu"]

# The coarse normaliser's keys: this many times longer windows, this many times farther apart.
COARSENING = 4


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """How InfLLM v2 chooses the key blocks of each token; the defaults are MiniCPM4's (96 * 64 = 6144 visible tokens).

    Source: InfLLM-V2 (arXiv 2509.24663), section 3 and 4.1; MiniCPM4 (arXiv 2506.07900), section 2.1.

    Attributes:
        block: tokens of a key block, the unit that is visible or not; a multiple of `stride`.
        kernel: tokens that one pooled key averages; a multiple of `stride`.
        stride: tokens between the starts of neighbouring pooled keys.
        blocks: visible blocks per token in all, the forced ones among them.
        init_blocks: first blocks of the token's document, always visible.
        local_blocks: the token's own block and those before it, always visible: `local_blocks` in all, its own
            included, as the paper has it (OpenBMB's kernel has one more).
        dense_len: rows of up to so many tokens are attended densely.
        normaliser: what divides the pooled scores of a head before its group is summed: "exact", the log-sum-exp of
            the pooled keys themselves, or "coarse", that of keys pooled `COARSENING` times coarser (a quarter of the
            work; section 3.4).
    """

    block: int = 64
    kernel: int = 32
    stride: int = 16
    blocks: int = 96
    init_blocks: int = 1
    local_blocks: int = 32
    dense_len: int = 8192
    normaliser: Literal["exact", "coarse"] = "exact"

    def __post_init__(self) -> None:
        for name, least in (("block", 1), ("kernel", 1), ("stride", 1), ("blocks", 1), ("local_blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"selection.{name} is {getattr(self, name)}: it must be at least {least}")
        for name in ("init_blocks", "dense_len"):
            if getattr(self, name) < 0:
                raise ValueError(f"selection.{name} is {getattr(self, name)}: it must not be negative")
        if self.block % self.stride:
            raise ValueError(f"selection.block {self.block} is not a multiple of selection.stride {self.stride}")
        if self.kernel % self.stride:
            raise ValueError(f"selection.kernel {self.kernel} is not a multiple of selection.stride {self.stride}")
        if self.init_blocks + self.local_blocks > self.blocks:
            raise ValueError(
                f"selection.blocks {self.blocks} does not hold the forced ones, init_blocks {self.init_blocks} and "
                f"local_blocks {self.local_blocks}: use at least {self.init_blocks + self.local_blocks}"
            )
        if self.normaliser not in ("exact", "coarse"):
            raise ValueError(f"selection.normaliser {self.normaliser!r}: use 'exact' or 'coarse'")

    @property
    def visible_tokens(self) -> int:
        """Tokens in the visible blocks: what a query attends to at most, 6144 by default."""
        return self.blocks * self.block


def num_blocks(length: int, block: int) -> int:
    """N, the key blocks of a row: the last one may be partial."""
    return -(-length // block)
