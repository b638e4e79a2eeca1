"""Question: how much of a fixed grid's budget do suggested runs need for an answer that is known as well?

Command: `python -m experiments.simulations.suggest_vs_grid`.
Cost: nine core-minutes for 50 studies, five minutes on two cores.
Result: the width of the interval that the grid has once its next size (its next two) is trained, suggested runs reach
for 3% (6%) of its FLOPs for the exponent, 3% (12%) for log10 D/N and 36% (22%) for the loss at N = 2e6, 3% being the
least budget that was tried; its root mean square error for 30% (9%), 50% (19%) and 68% (53%). Fifty studies leave much
open: 5-41% about the 30%, 24-81% about the 50%, 33-115% about the 68%. Recorded in
analysis/results/suggest_vs_grid/suggest_vs_grid.json, drawn by `python -m analysis.figures.suggest_vs_grid`.

The law of our quickstart is planted, and a first ladder of four sizes simulated with trunk and point noise. Then two
ways to go on are followed. The grid adds the ladder's next sizes, at all its D/N. `suggest` plans runs for a budget;
half of it is spent, their losses simulated, the law fitted again, and the rest planned anew. It is told neither the
noise nor the law. Beside them, the first ladder is repeated under new seeds. Each answer's error is recorded with its
interval, since a narrow interval alone could be an overconfident one: the figure of merit is the FLOPs at which the
root mean square error, or the median half-width, of `suggest` reaches the grid's, over the grid's FLOPs.
"""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from rich.console import Console
from rich.progress import track

from experiments.simulations import workers
from scaling import environment
from scaling.errors import UserError, exit_on_user_error
from scaling.laws import fit as fitting
from scaling.laws import suggest, table, uncertainty
from scaling.laws.design import Noise
from scaling.laws.forms import CHINCHILLA
from scaling.laws.planning import Trunk
from scaling.storage import write_json

LAW = {"E": 0.712, "A": 22.2, "alpha": 0.399, "B": 35.2, "beta": 0.292}
FIRST = (12e3, 24e3, 47e3, 95e3)
NEXT = (190e3, 380e3)  # what the grid goes on with
RATIOS = (20.0, 40.0, 60.0, 80.0)
ANSWERS = (suggest.exponent(1e12), suggest.ratio(1e14), suggest.loss(2e6, 4e7))
PARTS = (0.03, 0.1, 0.3, 1.0, 5.0)  # of the cost of the grid's next size: budgets that are tried
HERE = Path(__file__).parent
RESAMPLES = 400
MEASURES = ("rms_error", "median_error", "half_width")


class Study:
    """Points so far of one simulated study; every trunk draws its own error, every point another."""

    def __init__(self, noise: Noise, seed: int) -> None:
        self.noise = noise
        self.rng = np.random.default_rng(seed)
        self.points: list[tuple[float, float, str, float]] = []  # n, d, trunk, log loss - law's
        self.trunks: dict[str, float] = {}  # label -> error

    def branch(self, seed: int) -> "Study":
        """The same points, with errors of their own from here on."""
        other = Study(self.noise, seed)
        other.points, other.trunks = self.points.copy(), self.trunks.copy()
        return other

    def train(self, n: float, tokens: tuple[float, ...], continues: str = "") -> float:
        """Adds a trunk, or branches to one, and returns what they cost."""
        label = continues or str(len(self.trunks))
        reached = (1 - suggest.DECAY_SHARE) * max((d for _, d, trunk, _ in self.points if trunk == label), default=0.0)
        error = self.trunks.setdefault(label, self.rng.normal(0, self.noise.trunk))
        self.points += [(n, d, label, error + self.rng.normal(0, self.noise.point)) for d in tokens]
        return Trunk(label, n, trained=reached, tokens=tokens).flops(suggest.DECAY_SHARE)

    def make(self, run: suggest.Run) -> float:
        """Trains what was suggested, and returns what it cost."""
        return sum(self.train(run.n, run.tokens, run.continues) for _ in range(run.seeds))

    def table(self) -> table.Table:
        """The points as a fit reads them."""
        n, d, trunk, error = (np.array(column) for column in zip(*self.points, strict=True))
        loss = CHINCHILLA.predict(LAW, {"n": n, "d": d}) * np.exp(error)
        return table.Table({"n": n, "d": d, "flops": 6 * n * d}, loss, trunk, {})

    def bootstrap(self, replicates: int) -> uncertainty.Bootstrap:
        """The law fitted to the points so far, with replicates."""
        return uncertainty.bootstrap(fitting.fit(CHINCHILLA, self.table()), replicates=replicates, audit_share=0.0)


def simulate(number: int, noise: Noise, replicates: int) -> list[dict[str, Any]]:
    """One study, every way to go on: a row per way, answer and spending."""
    first = Study(noise, number)
    for n in FIRST:
        first.train(n, ladder(n))
    start, next_size = first.bootstrap(replicates), cost(NEXT[0])
    rows = [reading("start", 0.0, start, answer) for answer in ANSWERS]

    grid, spent = first.branch(number + 1_000_000), 0.0
    for n in NEXT:
        spent += grid.train(n, ladder(n))
        fitted = grid.bootstrap(replicates)
        rows += [reading("grid", spent, fitted, answer) for answer in ANSWERS]

    repeat, spent = first.branch(number + 2_000_000), 0.0
    for part in PARTS:
        while spent + sum(map(cost, FIRST)) <= part * next_size:
            spent += sum(repeat.train(n, ladder(n)) for n in FIRST)
        fitted = repeat.bootstrap(replicates)
        rows += [reading("repeat", spent, fitted, answer) for answer in ANSWERS]

    for answer in ANSWERS:
        for part in PARTS:
            # Every budget is a path of its own: half of it is spent, the law fitted again, and the rest planned anew.
            mine, budget = first.branch(number + 3_000_000), part * next_size
            plan = suggest.suggest(start, answer, budget)
            half = [run for run in plan.runs if run.spent <= max(budget / 2, plan.runs[0].spent)]
            spent = sum(mine.make(run) for run in half)
            # Where what is left narrows the answer no more, it stays unspent, and counts as spent.
            with contextlib.suppress(UserError):
                plan = suggest.suggest(mine.bootstrap(replicates), answer, budget - spent)
                for run in plan.runs:
                    mine.make(run)
            rows.append(
                reading("suggest", budget, mine.bootstrap(replicates), answer) | {"expected": plan.runs[-1].half_width}
            )
    return rows


def ladder(n: float) -> tuple[float, ...]:
    """The grid's branch points at a size."""
    return tuple(r * n for r in RATIOS)


def cost(n: float) -> float:
    """FLOPs of the grid's trunk of a size with its branches."""
    return Trunk("", n, tokens=ladder(n)).flops(suggest.DECAY_SHARE)


def reading(way: str, spent: float, fitted: uncertainty.Bootstrap, answer: suggest.Answer) -> dict[str, Any]:
    """The answer under a fit: its error and its interval."""
    form, truth = fitted.fit.form, float(answer.value(CHINCHILLA, LAW))
    low, high = fitted.interval(answer.value(form, fitted.params))
    return {
        "way": way,
        "answer": answer.name,
        "spent": spent,
        "error": float(answer.value(form, fitted.fit.params)) - truth,
        "half_width": float(high - low) / 2,
        "covered": bool(low <= truth <= high),
    }


def gather(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """By way and answer, every reading as (studies, steps)."""
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    frame = pd.DataFrame(rows)
    for (way, answer), group in frame.groupby(["way", "answer"], sort=False):
        names = ("spent", "error", "half_width", "covered", "expected")
        found[str(way), str(answer)] = {
            name: np.stack([mine[name].to_numpy(float) for _, mine in group.groupby("study")]) for name in names
        }
    return found


def measures(readings: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Over studies, at every step: root mean square and median absolute error, and median half-width."""
    return {
        "rms_error": np.sqrt((readings["error"] ** 2).mean(0)),
        "median_error": np.median(np.abs(readings["error"]), 0),
        "half_width": np.median(readings["half_width"], 0),
    }


def merit(mine: dict[str, np.ndarray], grid: dict[str, np.ndarray], measure: str) -> np.ndarray:
    """FLOPs at which suggested runs are as good as the grid, over the grid's, at each of the grid's steps.

    Interpolated in logs; a budget beyond the last that was tried is infinite, one below the first is the first.
    """
    # A curve through simulated figures must not turn back.
    level = np.minimum.accumulate(np.log(measures(mine)[measure]))
    target, spent = np.log(measures(grid)[measure]), np.log(mine["spent"].mean(0))
    reached = np.where(level[-1] <= target, np.interp(-target, -level, spent), np.inf)
    return np.asarray(np.exp(reached) / grid["spent"].mean(0))


def merit_interval(mine: dict[str, np.ndarray], grid: dict[str, np.ndarray], measure: str) -> np.ndarray:
    """90% interval of `merit`, (2, steps), from resampled studies."""
    rng, count = np.random.default_rng(0), len(mine["error"])
    draws = []
    for _ in range(RESAMPLES):
        rows = rng.integers(count, size=count)
        drawn, beside = ({name: values[rows] for name, values in readings.items()} for readings in (mine, grid))
        draws.append(merit(drawn, beside, measure))
    return np.asarray(np.quantile(draws, [0.05, 0.95], axis=0, method="nearest"))


def summarise(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """The curves and the figures of merit, as plain data."""
    curves = []
    for (way, answer), readings in found.items():
        columns = measures(readings) | {"spent": readings["spent"].mean(0), "covered": readings["covered"].mean(0)}
        if way == "suggest":
            columns["expected"] = np.median(readings["expected"], 0)
        curves.append({"way": way, "answer": answer} | {name: values.tolist() for name, values in columns.items()})
    merits = []
    for name in dict.fromkeys(answer for _, answer in found):
        mine, grid = found["suggest", name], found["grid", name]
        for measure in MEASURES:
            ratio, ends = merit(mine, grid, measure), merit_interval(mine, grid, measure)
            for step, n in enumerate(NEXT):
                low, value, high = (
                    float(v) if np.isfinite(v) else None for v in (ends[0, step], ratio[step], ends[1, step])
                )
                merits.append(
                    {"answer": name, "measure": measure, "grid_to": n, "ratio": value, "interval": [low, high]}
                )
    return {"curves": curves, "merit": merits}


def main(
    studies: int = 50,
    replicates: int = 200,
    trunk_noise: float = 3e-3,
    point_noise: float = 2e-3,
    seed: int = 0,
    processes: int = 2,
    out: Path = Path("analysis/results/suggest_vs_grid/suggest_vs_grid.json"),
) -> None:
    """Simulate suggested runs beside a fixed grid.

    Args:
        studies: simulated studies.
        replicates: of every bootstrap.
        trunk_noise: standard deviation of what all points of a trunk share, in log loss.
        point_noise: of what each point has of its own.
        seed: of the first study; the next have the next ones.
        processes: that share the work.
        out: where the record goes, as JSON.
    """
    noise, rows, console = Noise(trunk_noise, point_noise), [], Console()
    with workers(processes) as pool:
        numbers = range(seed, seed + studies)
        found = pool.map(functools.partial(simulate, noise=noise, replicates=replicates), numbers)
        for number, mine in track(zip(numbers, found, strict=True), "studies", total=studies, console=console):
            rows += [{"study": number} | row for row in mine]
    summary = summarise(gather(rows))
    record = {
        "law": LAW,
        "first": FIRST,
        "next": NEXT,
        "ratios": RATIOS,
        "noise": dataclasses.asdict(noise),
        "replicates": replicates,
        "seed": seed,
        "studies": studies,
        "answers": {answer.name: {"text": answer.text, "unit": answer.unit} for answer in ANSWERS},
        "versions": environment.versions(),
        "commit": environment.commit(),
        **summary,
    }
    write_json(out, record)
    for row in summary["merit"]:
        low, value, high = (
            f"{v:.0%}" if v else "never" for v in (row["interval"][0], row["ratio"], row["interval"][1])
        )
        console.print(
            f"{row['answer']}, {row['measure']}: as good as the grid to N = {row['grid_to']:.3g} for {value} of its "
            f"FLOPs ({low} to {high})"
        )
    console.print(f"written: {out}")


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
