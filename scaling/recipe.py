"""Recipes: from one size dial and a data budget to run configs."""

import dataclasses
from typing import Literal

from models.config import ModelConfig, ladder_model
from scaling.accounting import parameter_counts, training_flops
from scaling.branches.decay import DecaySpec
from scaling.config import (
    DataConfig,
    DecayShape,
    MixtureComponent,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)
from scaling.errors import UserError
from scaling.study import RunSpec

# seqio's ByteVocabulary: pad, end of text, unknown, and 256 byte values
BYTE_VOCAB_SIZE = 259


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long a branch is, decay included: `value` tokens per non-embedding parameter, tokens, or 6ND FLOPs."""

    value: float
    unit: Literal["per_parameter", "tokens", "flops"] = "per_parameter"

    def tokens(self, model: ModelConfig, sequence_length: int) -> float:
        """D_total for this model."""
        if self.unit == "tokens":
            return self.value
        if self.unit == "flops":
            return self.value / training_flops(model, sequence_length, 1, "6ND")
        return self.value * parameter_counts(model).non_embedding

    def steps(self, model: ModelConfig, data: DataConfig) -> int:
        """The nearest number of optimiser steps."""
        return round(self.tokens(model, data.sequence_length) / data.tokens_per_step)

    @property
    def label(self) -> str:
        """What a branch of this length is called."""
        return {
            "per_parameter": f"{self.value:g}N",
            "tokens": f"{self.value:g}",
            "flops": f"{self.value:g}F",
        }[self.unit]


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The recipe of a ladder of WSD trunks with decay branches.

    Attributes:
        tasks: what is read, with rates.
        budgets: D_total of each branch.
        share: decay steps / total steps of every branch.
        shape: of the decay.
        learning_rate: peak, at the muP base width; muP's rule gives the other widths theirs.
        sequence_length: T.
        width_per_row: rows of a batch = width / width_per_row: the batch grows as the root of N. A constant one
            leaves the large sizes too noisy a gradient, one that grows as N leaves them too few steps.
        warmup_tokens_per_parameter: warm-up in tokens per non-embedding parameter (Porian et al., 2406.19146).
        max_epochs: how often the data may be read.
    """

    tasks: tuple[MixtureComponent, ...]
    budgets: tuple[Budget, ...]
    share: float = 0.1
    shape: DecayShape = "one_minus_sqrt"
    learning_rate: float = 0.015
    sequence_length: int = 128
    width_per_row: int = 4
    warmup_tokens_per_parameter: float = 1.0
    max_epochs: float = 1.0
    optimizer: OptimizerConfig = OptimizerConfig()

    def vocab_size(self) -> int:
        """Size of the tasks' common vocabulary."""
        vocabularies = [component.task.vocabulary for component in self.tasks]
        said = {v.size if v.kind == "sentencepiece" else BYTE_VOCAB_SIZE for v in vocabularies}
        sizes = said - {0}  # one that is given as a file is another task's
        if not sizes:
            raise UserError(
                "no task of this mixture says how large its vocabulary is: put in the task that the model_file comes "
                "from, with rate 0 if it is not to be read"
            )
        if len(sizes) != 1:
            raise UserError(f"the tasks of one mixture must share a vocabulary, but have sizes {sorted(sizes)}")
        return sizes.pop()

    def trunk(self, width: int, seed: int = 0) -> RunConfig:
        """The trunk of this width: constant rate after warm-up."""
        model = ladder_model(width, self.vocab_size())
        rows = max(1, width // self.width_per_row)
        data = DataConfig(self.tasks, self.sequence_length, rows, self.max_epochs)
        warmup_tokens = self.warmup_tokens_per_parameter * parameter_counts(model).non_embedding
        warmup_steps = max(1, round(warmup_tokens / data.tokens_per_step))
        return RunConfig(model, data, ScheduleConfig(self.learning_rate, warmup_steps), self.optimizer, seed=seed)

    def whole(self, width: int, budget: Budget, seed: int = 0) -> RunConfig:
        """Trunk and decay branch of this length as one run, the decay in its own schedule."""
        config = self.trunk(width, seed)
        decay = DecaySpec(budget.steps(config.model, config.data), self.share, self.shape).decay
        return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, decay=decay))

    def run(self, width: int, seed: int = 0, more: tuple[Budget, ...] = ()) -> RunSpec:
        """The trunk with a decay branch for every budget, and for `more` of this run's own."""
        config = self.trunk(width, seed)
        branches = []
        for budget in (*self.budgets, *more):
            steps = budget.steps(config.model, config.data)
            branches.append(DecaySpec(steps, self.share, self.shape, label=budget.label))
        return RunSpec(f"w{width}" + (f"-seed{seed}" if seed else ""), config, tuple(branches))
