"""Can a model of 512-token rows learn to use 2048, and does it have to see all of them?

A trunk at length 512, half on source code and half on generated key-value text (without which a model so small never
learns to look anything up), branches to length 2048 with another rotary base, its rate decaying to the end: once
densely, once with InfLLM v2's selection, under which a token sees 16 blocks of 32, as many tokens as a row of the trunk
had. The dense branch is also read with that selection untrained, and the trunk untrained at the new length, as it is
and with NTK-aware frequencies. Measured: loss by position on code and on key-value text, and key-value retrieval and
needles at 2, 4 and 8 times the trunk's length. Selection is scaled down with the rows: MiniCPM4's blocks are of 64
tokens, 96 of the 512 of a row of 32K, its pooled keys of half a block, a quarter apart, as here.

Commands: `windtunnel run sparse_long_context --no-report`, `python -m analysis.record_study sparse_long_context`;
figure: `python -m analysis.figures.sparse_long_context`.
Cost: 9.8e12 FLOPs (6ND).
Result: not recorded yet.
"""

from experiments.quickstart import LADDER
from models.config import RopeScaling, SelectionConfig, ladder_model
from scaling.branches.long_context import LongContextSpec, lengthened
from scaling.config import (
    DataConfig,
    KeyValueConfig,
    MixtureComponent,
    RetrievalConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    TaskConfig,
)
from scaling.recipe import BYTE_VOCAB_SIZE
from scaling.study import EvaluationConfig, RunSpec, Study

WIDTH, LENGTH, LONG = 64, 512, 2048
TRUNK_STEPS, BRANCH_STEPS, WARMUP_STEPS = 1600, 250, 50  # of 4096 tokens each
CODE = TaskConfig("python_stdlib_4096", SourceConfig("python_stdlib", domain="code"), record_tokens=4096)
SPARSE = SelectionConfig(block=32, kernel=16, stride=8, blocks=16, init_blocks=1, local_blocks=4, dense_len=LENGTH)


def pairs(documents: int, size: int, heldout_fraction: float, shortest: int = 0) -> TaskConfig:
    """Key-value text in documents of about `size` bytes, with some lines of code between the pairs."""
    text = KeyValueConfig(documents, size, shortest, repeats=0.7, filler=0.2)
    source = SourceConfig("key_value", domain=f"key_value_{size}", key_value=text)
    return TaskConfig(
        f"key_value_{size}",
        source,
        record_tokens=2 * size,
        heldout_fraction=heldout_fraction,
        near_duplicates=1.0,
    )


PAIRS, LONG_PAIRS = pairs(11_000, 1024, 0.05, shortest=64), pairs(250, 4096, 0.25)


def half_and_half(task: TaskConfig) -> tuple[MixtureComponent, ...]:
    """Rows of code and rows of this task in turn."""
    return MixtureComponent(CODE, 0.5), MixtureComponent(task, 0.5)


def study() -> Study:
    """One trunk and its branches."""
    model = ladder_model(WIDTH, BYTE_VOCAB_SIZE)
    data = DataConfig(half_and_half(PAIRS), LENGTH, batch_size=8)
    trunk = RunConfig(model, data, ScheduleConfig(LADDER.learning_rate, WARMUP_STEPS))
    rows, end = lengthened(data, LONG, half_and_half(LONG_PAIRS)), TRUNK_STEPS + BRANCH_STEPS
    untrained = LongContextSpec("sparse-untrained", end, 0, attention="sparse", sparse=SPARSE)
    stretched = RopeScaling("ntk", factor=LONG / LENGTH)
    branches = (
        LongContextSpec("dense", TRUNK_STEPS, BRANCH_STEPS, rows, rope_theta=1e5, branches=(untrained,)),
        LongContextSpec("sparse", TRUNK_STEPS, BRANCH_STEPS, rows, rope_theta=1e5, attention="sparse", sparse=SPARSE),
        LongContextSpec("untrained", TRUNK_STEPS, 0, rows),
        LongContextSpec("ntk-untrained", TRUNK_STEPS, 0, rows, rope_scaling=stretched),
    )
    evaluation = EvaluationConfig(
        (CODE, LONG_PAIRS),
        sequence_length=LONG,
        position_bins=16,
        retrieval=RetrievalConfig(lengths=(2 * LENGTH, 4 * LENGTH, 8 * LENGTH)),
    )
    return Study(
        "sparse_long_context", __doc__.split("\n")[0], (RunSpec(f"w{WIDTH}", trunk, branches),), evaluation, law=None
    )
