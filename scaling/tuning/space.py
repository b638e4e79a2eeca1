"""What a search may turn: hyper-parameters that enter a run as data, so that all trials share one program."""

import dataclasses
import math
from collections.abc import Mapping

from scaling.config import RunConfig
from scaling.errors import UserError

# name -> the part of a RunConfig and its field
PLACES = {
    "learning_rate": ("schedule", "peak"),
    "init_std": ("model", "init_std"),
    "scale_emb": ("model", "scale_emb"),
    "scale_depth": ("model", "scale_depth"),
    "weight_decay": ("optimizer", "weight_decay"),
    "clip_norm": ("optimizer", "clip_norm"),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One axis of the space that is searched.

    Attributes:
        name: one of `PLACES`.
        low: its least value.
        high: its largest.
        log: whether values are drawn evenly over the logarithm.
    """

    name: str
    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if self.name not in PLACES:
            raise UserError(f"cannot search over {self.name!r}: one of {', '.join(PLACES)}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"{self.name} from {self.low:g} to {self.high:g} is no range: give the lower end first")
        if self.low < 0 or (self.log and self.low == 0):
            raise UserError(
                f"{self.name} from {self.low:g}: it must start above 0, or write "
                f"{self.name}=0:{self.high:g}:linear for a range that includes 0"
            )


def parse_parameter(text: str) -> Parameter:
    """A parameter from `name=low:high`, or `name=low:high:linear` for even steps instead of even ratios.

    Raises:
        UserError: it is written otherwise, or is no range of a known parameter.
    """
    name, equals, numbers = text.partition("=")
    low, *rest = numbers.split(":")
    try:
        high, *scale = rest
        if not equals or scale not in ([], ["linear"]):
            raise ValueError
        ends = float(low), float(high)
    except ValueError:
        raise UserError(f"{text!r} is no range to search: write it as learning_rate=1e-3:0.1") from None
    return Parameter(name.strip(), *ends, log=not scale)


def check_space(parameters: tuple[Parameter, ...]) -> None:
    """Raises a UserError if there is nothing to search or a parameter is named twice."""
    names = [parameter.name for parameter in parameters]
    if not names:
        raise UserError("nothing to search over: give at least one parameter, such as learning_rate=1e-3:0.1")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{', '.join(sorted(twice))} is given twice: give one range each")


def setting_of(config: RunConfig) -> dict[str, float]:
    """The values of everything that can be searched, as a run has them."""
    return {name: float(getattr(getattr(config, part), field)) for name, (part, field) in PLACES.items()}


def with_setting(config: RunConfig, setting: Mapping[str, float]) -> RunConfig:
    """The run with these hyper-parameters, all else kept."""
    for name, value in setting.items():
        part, field = PLACES[name]
        config = dataclasses.replace(
            config, **{part: dataclasses.replace(getattr(config, part), **{field: float(value)})}
        )
    return config
