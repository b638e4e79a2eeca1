"""What the studies of the warm-up, stable and decay schedule share: the quickstart's recipe, read off in other ways.

Model, data, peak rate and batch are those of the quickstart's ladder, so that a trunk or branch that one study has
trained is not trained again by another.
"""

from experiments.quickstart import CODE, LADDER
from scaling.branches.contract import BranchSpec
from scaling.branches.decay import DecaySpec
from scaling.config import DecayShape, RunConfig
from scaling.recipe import Budget
from scaling.study import EvaluationConfig, RunSpec, Study


def steps(config: RunConfig, multiple: float) -> int:
    """Steps in `multiple` tokens per non-embedding parameter."""
    return Budget(multiple).steps(config.model, config.data)


def decay(
    config: RunConfig,
    multiple: float,
    *,
    share: float = LADDER.share,
    shape: DecayShape = LADDER.shape,
    final: float = 0.0,
    label: str = "",
) -> DecaySpec:
    """A branch whose end lies at `multiple` tokens per parameter, decay included."""
    return DecaySpec(steps(config, multiple), share, shape, final, label=label or f"{multiple:g}N")


def run(config: RunConfig, branches: tuple[BranchSpec, ...], note: str = "") -> RunSpec:
    """A trunk of the ladder with these branches; `note` tells it from others of its width and seed."""
    return RunSpec(f"w{config.model.d_model}-seed{config.seed}{note}", config, branches)


def study(name: str, question: str, runs: tuple[RunSpec, ...]) -> Study:
    """A study of schedules: its ends are compared with each other on the quickstart's held-out code, and fit no law."""
    return Study(name, question, runs, EvaluationConfig((CODE,)), law=None)
