"""Question: do activations and updates keep their size as the width grows from 64 to 1024, under muP and without?

Ten steps on one batch at a constant rate, four-layer ladder models with muP base width 64; beside them standard
parametrisation (`scaling.tuning.parametrization`), which is the same model at width 64.

Command: `python -m experiments.coordinate_check`, then `python -m analysis.figures.coordinate_check`.
Cost: about 3 minutes on two cores.
Result: muP keeps every rule; in standard parametrisation what attention and MLP add grows as width^2.3 and width^3
within ten steps (analysis/results/coordinate_check/: coordinate_check.json, exponents.csv, sizes.csv, figure).
"""

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table

from models.config import ladder_model
from scaling.config import OptimizerConfig, to_json
from scaling.errors import UserError, exit_on_user_error
from scaling.identity import provenance
from scaling.recipe import BYTE_VOCAB_SIZE
from scaling.storage import write_json, write_text
from scaling.tuning.coordinate_check import coordinate_check, zipf_batch
from scaling.tuning.parametrization import standard
from scaling.tuning.width_exponents import broken_rules, exponents


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        widths: of the models.
        base_width: at which both parametrisations are one.
        learning_rate: at the base width; MiniCPM's.
        steps: of training.
        seeds: of initial parameters.
        rows: of the batch.
        length: tokens of a row.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    base_width: int = 64
    learning_rate: float = 0.01
    steps: int = 10
    seeds: tuple[int, ...] = (0, 1)
    rows: int = 4
    length: int = 64

    def __post_init__(self) -> None:
        if len(set(self.widths)) < 2:
            raise UserError(f"widths {self.widths}: an exponent takes two different ones or more")
        if self.steps < 1:
            raise UserError(f"steps {self.steps}: updates are looked at after 1 step or more")


def merged(sizes: pd.DataFrame) -> pd.DataFrame:
    """Sizes with layers taken together, and seeds (by geometric mean)."""
    keys = ["parametrization", "width", "seed", "step", "quantity", "part"]
    layers = sizes.assign(rms=sizes["rms"] ** 2).groupby(keys, sort=False)["rms"].mean() ** 0.5
    keys.remove("seed")
    logs = layers.where(layers > 0).map(np.log)
    return logs.groupby(keys, sort=False).mean().map(np.exp).reset_index()


def main(settings: Settings = Settings(), out: Path = Path("analysis/results/coordinate_check")) -> None:
    """Measure how activations and updates scale with width.

    Args:
        settings: what is measured.
        out: folder for the record.
    """
    console = Console()
    tokens = zipf_batch(BYTE_VOCAB_SIZE, settings.rows, settings.length)
    models = [ladder_model(width, BYTE_VOCAB_SIZE, settings.base_width) for width in settings.widths]
    parametrizations = {"mup": models, "standard": [standard(model) for model in models]}
    sizes, slopes, verdict = {}, {}, {}
    for name, wanted in parametrizations.items():
        with console.status(f"{name}: {settings.steps} steps of {len(wanted)} widths"):
            sizes[name] = coordinate_check(
                wanted, tokens, learning_rate=settings.learning_rate, steps=settings.steps, seeds=settings.seeds
            )
        slopes[name] = exponents(sizes[name])
        verdict[name] = broken_rules(slopes[name])
    table = pd.concat(slopes, names=["parametrization"]).reset_index("parametrization")
    record = {"settings": to_json(settings), "optimizer": to_json(OptimizerConfig()), "broken_rules": verdict}
    write_json(out / "coordinate_check.json", record | {"provenance": provenance()})
    write_text(out / "exponents.csv", table.to_csv(index=False, float_format="%.4g"))
    whole = pd.concat(sizes, names=["parametrization"]).reset_index("parametrization")
    write_text(out / "sizes.csv", merged(whole).to_csv(index=False, float_format="%.5g"))
    console.print(_summary(table, settings.steps))
    for name, broken in verdict.items():
        console.print(f"{name}: " + ("; ".join(broken) or "keeps every rule of width"), highlight=False)
    console.print(f"Written: {out}")


def _summary(table: pd.DataFrame, step: int) -> Table:
    """Exponents at the last step, smallest and largest over layers; of weights at the first."""
    at = np.where(table["quantity"] == "weight", 0, step)
    last = table[table["step"] == at]
    grid = Table("quantity", "part", "muP says", "muP", "standard", title=f"Exponents of width, step {step}")
    for key, rows in last.groupby(["quantity", "part"], sort=False):
        cells = []
        for name in ("mup", "standard"):
            found = rows[rows["parametrization"] == name]["exponent"]
            cells.append(f"{found.min():z.2f}" + (f" to {found.max():z.2f}" if len(found) > 1 else ""))
        low, high = rows["low"].iloc[0], rows["high"].iloc[0]
        says = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        grid.add_row(*cast(tuple[str, str], key), says, *cells)
    return grid


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
