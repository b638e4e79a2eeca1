"""What the training-step benchmark trains: a model, and the batch that it sees. Imports no jax."""

import dataclasses

from models.config import NAMED, ModelConfig, ladder_model
from scaling.config import (
    DataConfig,
    ExecutionConfig,
    MixtureComponent,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
    TaskConfig,
)
from scaling.errors import UserError

BYTES = 259  # vocabulary of the sizes that are our own


@dataclasses.dataclass(frozen=True)
class Shape:
    """One training step to time.

    Attributes:
        model: what is trained.
        sequence_length: T.
        batch_size: rows of a step.
        document_tokens: mean length of the documents packed into the rows, each of which sees itself only; 0: every
            row is one document, and nothing but the future is masked.
        execution: how it is computed.
    """

    model: ModelConfig
    sequence_length: int
    batch_size: int
    document_tokens: int = 400
    execution: ExecutionConfig = ExecutionConfig(steps_per_dispatch=4)

    def run_config(self) -> RunConfig:
        """The run that the shape belongs to; its corpus is named and never read."""
        corpus = TaskConfig("random", SourceConfig("files", "random"))
        data = DataConfig((MixtureComponent(corpus),), self.sequence_length, self.batch_size)
        return RunConfig(self.model, data, ScheduleConfig(1e-3, 0))


def _decoder(num_layers: int, d_model: int, d_ff: int) -> ModelConfig:
    heads = d_model // 32
    return ModelConfig(BYTES, num_layers, d_model, heads, heads, 32, d_ff, mup_base_width=d_model)


# 0.8M and 2.7M parameters; the shapes in which our CPU step has been compared from the beginning
SHAPES = {
    "A": Shape(_decoder(4, 128, 352), sequence_length=128, batch_size=16),
    "B": Shape(_decoder(6, 192, 512), sequence_length=256, batch_size=16),
}


def shape(name: str) -> Shape:
    """The shape of a name: A, B, ladder-WIDTH (8192 byte tokens a step) or a model of `models.config.NAMED`.

    The named models train as they were trained: rows of 4096 tokens, bfloat16; four rows, one document each.
    """
    if name in SHAPES:
        return SHAPES[name]
    if name in NAMED:
        model = dataclasses.replace(NAMED[name], compute_dtype="bfloat16")
        return Shape(model, sequence_length=4096, batch_size=4, document_tokens=0)
    kind, _, width = name.partition("-")
    if kind == "ladder" and width.isdecimal():
        try:
            model = ladder_model(int(width), BYTES)
        except ValueError as error:
            raise UserError(f"benchmark: size {name!r}: {error}") from error
        return Shape(model, sequence_length=128, batch_size=64)
    raise UserError(f"benchmark: no size {name!r}: use {', '.join(SHAPES)}, ladder-WIDTH, or one of {', '.join(NAMED)}")
