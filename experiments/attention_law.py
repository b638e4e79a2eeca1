"""What does a token have to see? Loss against visible tokens, at fixed size and data.

Models trained from scratch on rows of 1024 bytes of source code, alike in all but attention: dense, and sparse with 64
to 512 visible tokens, in blocks of 32. Under "selected" the first block and a token's own are given and InfLLM v2
chooses the rest; under "window" the rest are the blocks before its own, as in a sliding window with a sink. What
selection is worth is the distance between the two; what attention is worth, their distance from dense.

Command: `windtunnel run attention_law --no-report`, `python -m analysis.record_study attention_law`; figure:
`python -m analysis.figures.attention_law`.
Cost: 4.7e12 FLOPs (6ND).
Result: not recorded yet.
"""

import dataclasses

from experiments.quickstart import LADDER
from experiments.sparse_long_context import CODE
from models.config import ModelConfig, SelectionConfig, ladder_model
from scaling.branches.decay import DecaySpec
from scaling.config import DataConfig, DecayConfig, MixtureComponent, RunConfig, ScheduleConfig
from scaling.recipe import BYTE_VOCAB_SIZE
from scaling.study import EvaluationConfig, RunSpec, Study

WIDTH, LENGTH, ROWS, STEPS = 32, 1024, 2, 1000
BLOCK = 32
VISIBLE = (64, 128, 256, 512)


def selection(visible: int, local_blocks: int) -> SelectionConfig:
    """So many visible tokens in blocks of 32, the first of the row and the last ones given; rows are never dense."""
    kernel, stride, blocks = BLOCK // 2, BLOCK // 4, visible // BLOCK
    return SelectionConfig(BLOCK, kernel, stride, blocks, init_blocks=1, local_blocks=local_blocks, dense_len=0)


def whole(label: str, sparse: SelectionConfig | None = None) -> RunSpec:
    """A run from scratch with its decay, under this attention."""
    dense = ladder_model(WIDTH, BYTE_VOCAB_SIZE)
    model: ModelConfig = dataclasses.replace(dense, attention="sparse", sparse=sparse) if sparse else dense
    end = DecaySpec(STEPS, LADDER.share, LADDER.shape)
    decay = DecayConfig(end.start, end.decay_steps, end.shape, end.final)
    data = DataConfig((MixtureComponent(CODE),), LENGTH, ROWS)
    return RunSpec(label, RunConfig(model, data, ScheduleConfig(LADDER.learning_rate, warmup_steps=25, decay=decay)))


def study() -> Study:
    """Eight runs; with the two blocks of 64 tokens there is nothing to select."""
    window = [whole(f"window-{visible}", selection(visible, visible // BLOCK - 1)) for visible in VISIBLE]
    selected = [whole(f"selected-{visible}", selection(visible, local_blocks=1)) for visible in VISIBLE[1:]]
    evaluation = EvaluationConfig((CODE,), tokens=262_144, sequence_length=LENGTH, position_bins=8)
    runs = (whole(f"dense-{LENGTH}"), *window, *selected)
    return Study("attention_law", __doc__.split("\n")[0], runs, evaluation, law=None)
