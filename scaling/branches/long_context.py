"""A branch to longer rows: other rotary frequencies, sparse attention if wanted, trained under a decay or a constant
rate, or not trained at all.

Parameters and optimiser state are the parent's, since neither row length nor attention has parameters of its own.
MiniCPM went from 4K to 32K with an adjusted base and to 128K with NTK-aware scaling, out of the stable phase
(arXiv 2404.06395, section 7.2); InfLLM-V2 switched a dense model to sparse attention over 5B tokens of rows up to 32K,
at an almost constant rate (arXiv 2509.24663, section 4.1).

Rows of one batch have one length. What the papers call length buckets is a mixture of tasks that hold documents of one
range of lengths each (`length_buckets`): rates then say how many tokens come from which, and data order stays a
function of (seed, mixture timeline, step). Short documents are packed into the long rows and do not see each other.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from models.config import RopeScaling, SelectionConfig
from scaling.branches.contract import Branch, BranchSpec
from scaling.config import (
    DataConfig,
    DecayConfig,
    DecayShape,
    MixtureComponent,
    Parent,
    RunConfig,
    TaskConfig,
)
from scaling.errors import UserError
from scaling.objectives import next_token


@dataclasses.dataclass(frozen=True)
class LongContextSpec:
    """A branch to longer rows as a study declares it.

    Attributes:
        label: what tables call it.
        start: step of the parent at which it leaves.
        steps: how long it is trained; 0 only reads the parent's parameters in another way.
        data: its rows (see `lengthened`); None keeps the parent's.
        rope_theta: another rotary base (ABF); None keeps the parent's.
        rope_scaling: NTK-aware or LongRoPE stretching; None keeps the parent's.
        attention: "dense", "sparse", or one of these for every layer; None keeps the parent's.
        sparse: the selection, where there are sparse layers.
        share: share of the branch's steps, its last ones, in which the rate decays; 0 keeps it constant.
        shape: of the decay.
        final: fraction of the rate at the end of the decay.
        peak: another rate from the branch's first step on; None keeps the parent's.
        branches: what leaves this branch.
    """

    label: str
    start: int
    steps: int
    data: DataConfig | None = None
    rope_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    attention: str | tuple[str, ...] | None = None
    sparse: SelectionConfig | None = None
    share: float = 1.0
    shape: DecayShape = "one_minus_sqrt"
    final: float = 0.0
    peak: float | None = None
    branches: tuple[BranchSpec, ...] = ()

    kind = "long_context"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"branch {self.label!r} has {self.steps} steps: 0 trains nothing, more train")
        if not 0 <= self.share <= 1:
            raise UserError(f"branch {self.label!r}: decay share {self.share:g} must lie between 0 and 1")
        if self.shape == "exponential":
            raise UserError(f"branch {self.label!r}: shape 'exponential' has no end; take 'megatron', which falls to 0")
        if self.attention == "dense" and self.sparse is not None:
            raise UserError(f"branch {self.label!r} is dense: leave `sparse` out, or let `attention` be 'sparse'")

    @property
    def stop(self) -> int:
        """The branch's end."""
        return self.start + self.steps

    def config(self, parent: RunConfig, parent_run: str) -> RunConfig:
        """The parent's config with longer rows, other attention and other rates."""
        kept = parent.model
        attention = kept.attention if self.attention is None else self.attention
        sparse = None if attention == "dense" else self.sparse or kept.sparse
        model = dataclasses.replace(
            kept,
            rope_theta=kept.rope_theta if self.rope_theta is None else self.rope_theta,
            rope_scaling=self.rope_scaling or kept.rope_scaling,
            attention=attention,
            sparse=sparse,
        )
        length = round(self.share * self.steps)
        decay = DecayConfig(self.stop - length, length, self.shape, self.final) if length else None
        schedule = dataclasses.replace(parent.schedule, decay=decay, peak=self.peak or parent.schedule.peak)
        return dataclasses.replace(
            parent,
            model=model,
            data=self.data or parent.data,
            schedule=schedule,
            parent=Parent(parent_run, self.start),
            branch=self.kind,
        )


def lengthened(
    data: DataConfig, sequence_length: int, mixture: tuple[MixtureComponent, ...] | None = None
) -> DataConfig:
    """Rows of another length with as many tokens a step, of the same mixture or of another.

    Raises:
        UserError: rows of this length do not divide the tokens of a step.
    """
    rows, rest = divmod(data.tokens_per_step, sequence_length)
    if rest or not rows:
        raise UserError(
            f"rows of {sequence_length} do not divide the {data.tokens_per_step} tokens of a step: choose another "
            f"length, or give a DataConfig with the batch size you want"
        )
    return dataclasses.replace(data, mixture=mixture or data.mixture, sequence_length=sequence_length, batch_size=rows)


def length_buckets(task: TaskConfig, edges: Sequence[int]) -> tuple[MixtureComponent, ...]:
    """A corpus as tasks of one range of document lengths each, which give equally many tokens.

    Args:
        task: the corpus; records are made as long as the bucket's documents, so that none is cut.
        edges: bytes at which the buckets meet, rising: [0, 4096, 16384] makes two.
    """
    if len(edges) < 2 or list(edges) != sorted(set(edges)) or edges[0] < 0:
        raise UserError(f"task {task.name!r}: length buckets between {list(edges)}: give two or more rising lengths")
    return tuple(
        MixtureComponent(
            dataclasses.replace(
                task,
                name=f"{task.name}_{low}_{high}",
                min_bytes=max(low, task.min_bytes),
                max_bytes=high - 1,
                record_tokens=high,
            )
        )
        for low, high in itertools.pairwise(edges)
    )


# The optimiser's state is kept, as for every branch that goes on with the same parameters.
BRANCH = Branch(start=lambda config, state: state, objective=next_token)
