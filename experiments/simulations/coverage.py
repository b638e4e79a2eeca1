"""Question: how often does a nominal 90% interval hold the truth, in studies like our quickstart and like Chinchilla's?

Command: `python -m experiments.simulations.coverage --table chinchilla_svg_extracted.csv --seed 100000`.
Cost: about 20 minutes on two cores for three splits of the noise.
Result: analysis/results/coverage/coverage.json, drawn by `python -m analysis.figures.coverage`.

A study is simulated by planting a law and drawing errors of log loss at a real design: one error that all points of
a trunk share (its seed), one of each point. Their total size is that of the design's own residuals; their split is
varied. Every study is fitted as a user would fit it, and bootstrapped twice: as we do, by cluster, and naively, as
if every point were independent.
"""

import concurrent.futures
import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console

from experiments.simulations import workers
from scaling import environment
from scaling.errors import UserError, exit_on_user_error
from scaling.laws import fit as fitting
from scaling.laws import table, uncertainty
from scaling.laws.forms import CHINCHILLA
from scaling.storage import write_json

HERE = Path(__file__).parent
QUICKSTART = HERE.parents[1] / "analysis" / "results" / "quickstart" / "points.csv"
SAME_SIZE = 0.01  # log N within which digitised points count as one size
LEVEL = 0.9
NEW_RUNS = 200  # new runs drawn per study, to see how many a prediction interval holds
BLOCK = 20  # studies that a worker simulates at a time


@dataclasses.dataclass(frozen=True)
class Design:
    """Where the points of a study lie, and the truth behind them.

    Attributes:
        name: how the record calls it.
        points: the design; its losses are the law's, without error.
        law: the planted parameters.
        error: standard deviation of log loss about the law, trunk's and point's error together.
        freedom: of the errors' Student distribution; infinite where they are normal.
        target: the new run whose loss is predicted, n and d.
    """

    name: str
    points: table.Table
    law: dict[str, float]
    error: float
    freedom: float
    target: dict[str, float]

    def study(self, trunk_to_point: float, seed: int) -> tuple[table.Table, np.ndarray]:
        """A simulated study and the losses of `NEW_RUNS` new runs at the target, each of a trunk of its own.

        Args:
            trunk_to_point: ratio of the standard deviations of trunk errors and point errors.
            seed: of the errors.
        """
        rng = np.random.default_rng(seed)
        share = trunk_to_point / np.hypot(trunk_to_point, 1)  # of `error`, that a trunk's points have in common

        def errors(groups_N: np.ndarray) -> np.ndarray:
            trunk_G = self._draw(rng, groups_N.max() + 1)
            point_N = self._draw(rng, len(groups_N))
            return np.asarray(self.error * (share * trunk_G[groups_N] + np.sqrt(1 - share**2) * point_N))

        labels_N = np.unique(self.points.cluster, return_inverse=True)[1]
        loss_N = self.points.loss * np.exp(errors(labels_N))
        new = float(CHINCHILLA.predict(self.law, self.target)) * np.exp(errors(np.arange(NEW_RUNS)))
        return dataclasses.replace(self.points, loss=loss_N), new

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Errors of variance 1."""
        if np.isinf(self.freedom):
            return np.asarray(rng.normal(size=count))
        return np.asarray(rng.standard_t(self.freedom, count) / np.sqrt(self.freedom / (self.freedom - 2)))


def quickstart() -> Design:
    """Our quickstart as recorded: eight trunks of five sizes with 35 points, and the law fitted to them."""
    columns = {"n": "N", "d": "D_total", "flops": "C_6ND", "loss": "nats_per_token/code", "cluster": "trunk"}
    points = table.read_table(QUICKSTART, columns=columns)
    return _design("quickstart", points, error=0.012, freedom=np.inf, target={"n": 4e5, "d": 4e7})


def chinchilla(path: Path | None) -> Design:
    """Chinchilla's design, a cluster a size: Epoch's 240 points, or where their table is absent sizes x budgets alike.

    The residuals of the real points have a kurtosis that Student's distribution with 3 degrees of freedom matches.
    """
    if path is None:
        n, flops = (a.ravel() for a in np.meshgrid(np.geomspace(73e6, 16e9, 40), np.geomspace(6e18, 3e21, 9)))
        d = flops / 6 / n
        keep = (d / n > 0.7) & (d / n < 300)
        law = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
        columns = {"n": n[keep], "d": d[keep], "flops": flops[keep]}
        points = table.Table(columns, CHINCHILLA.predict(law, columns), n[keep].astype(str), {})
    else:
        points = table.read_table(path)
        points = points.select(points.loss < np.sort(points.loss)[-5])  # as in Epoch's notebook
        order_N = np.argsort(points.columns["n"])
        new_size_N = np.diff(np.log(points.columns["n"][order_N]), prepend=-np.inf) > SAME_SIZE
        sizes_N = np.empty(len(points), int)
        sizes_N[order_N] = np.cumsum(new_size_N)
        points = dataclasses.replace(points, cluster=sizes_N.astype(str))
    return _design("chinchilla", points, error=0.0075, freedom=3.0, target={"n": 70e9, "d": 1.4e12})


def _design(name: str, points: table.Table, **others: Any) -> Design:
    law = dict(fitting.fit(CHINCHILLA, points).params)
    loss_N = np.asarray(CHINCHILLA.predict(law, points.columns))
    return Design(name, dataclasses.replace(points, loss=loss_N), law, **others)


def answers(design: Design, params: Any) -> dict[str, Any]:
    """What is asked of a law: the exponent a, log10 D/N at ten times the largest budget, log loss at the target."""
    assert CHINCHILLA.optimum is not None
    best = CHINCHILLA.optimum(params, 10 * design.points.budgets.max())
    return {
        "a": params["beta"] / (params["alpha"] + params["beta"]),
        "log10 D/N": np.log10(best["d"] / best["n"]),
        "log loss": np.log(CHINCHILLA.predict(params, design.target)),
    }


def judge(design: Design, replicates: uncertainty.Bootstrap, new_losses: np.ndarray) -> dict[str, tuple[float, float]]:
    """(share covered, width) of every interval; for "new run", the share of new losses inside."""
    truth, spread = answers(design, design.law), answers(design, replicates.params)
    found = {}
    for name, value in truth.items():
        low, high = replicates.interval(spread[name])
        found[name] = (float(low <= value <= high), float(high - low))
    low, high = (float(np.squeeze(end)) for end in replicates.prediction_interval(design.target))
    found["new run"] = (float(np.mean((low <= new_losses) & (new_losses <= high))), float(np.log(high / low)))
    return found


def simulate(
    design: Design, trunk_to_point: float, method: uncertainty.Method, replicates: int, seeds: range
) -> list[dict[str, Any]]:
    """Fits and bootstraps one study per seed: by cluster with `method`, and naively; see `judge`."""
    found = []
    for seed in seeds:
        points, new_losses = design.study(trunk_to_point, seed)
        fit = fitting.fit(CHINCHILLA, points, seed=seed)
        every_point = dataclasses.replace(points, cluster=np.arange(len(points)).astype(str))
        options: Any = {"replicates": replicates, "level": LEVEL, "seed": seed, "audit_share": 0.0}
        ours = uncertainty.bootstrap(fit, method=method, **options)
        naive = uncertainty.bootstrap(dataclasses.replace(fit, table=every_point), method="resample", **options)
        found.append(
            {"method": ours.method, "clusters": ours.clusters, "label": ours.label}
            | {"by cluster": judge(design, ours, new_losses), "by point": judge(design, naive, new_losses)}
        )
    return found


def summarise(studies: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage with its Monte-Carlo standard error, and mean width, of every interval; labels by share of studies."""
    labels = [study["label"] for study in studies]
    row: dict[str, Any] = {
        "studies": len(studies),
        "method": studies[0]["method"],
        "clusters": studies[0]["clusters"],
        "labels": {label: labels.count(label) / len(labels) for label in sorted(set(labels))},
    }
    for how in ("by cluster", "by point"):
        row[how] = {}
        for name in studies[0][how]:
            covered, width = np.array([study[how][name] for study in studies]).T
            row[how][name] = {
                "coverage": float(covered.mean()),
                "standard_error": float(covered.std(ddof=1) / np.sqrt(len(covered))),
                "width": float(width.mean()),
            }
    return row


def measure(
    design: Design,
    trunk_to_point: float,
    method: uncertainty.Method,
    replicates: int,
    studies: int,
    seed: int,
    pool: concurrent.futures.Executor,
) -> dict[str, Any]:
    """One row of the record: coverage over `studies` studies of a design with one split of errors."""
    blocks = [range(i, min(i + BLOCK, seed + studies)) for i in range(seed, seed + studies, BLOCK)]
    work = [pool.submit(simulate, design, trunk_to_point, method, replicates, block) for block in blocks]
    found = [study for block in work for study in block.result()]
    return {"design": design.name, "trunk_to_point": trunk_to_point} | summarise(found)


def main(
    design: Literal["both", "quickstart", "chinchilla"] = "both",
    table: Path | None = None,
    studies: int = 1000,
    replicates: int = 400,
    method: uncertainty.Method = "auto",
    trunk_to_point: tuple[float, ...] = (0.5, 1.0, 3.0),
    seed: int = 0,
    processes: int = 2,
    out: Path = Path("analysis/results/coverage/coverage.json"),
) -> None:
    """Measure the coverage of 90% intervals in simulated studies.

    Args:
        design: which design.
        table: Epoch's chinchilla_svg_extracted.csv; without it Chinchilla's design is made up of sizes x budgets.
        studies: simulated studies per row.
        replicates: of each bootstrap.
        method: of the bootstrap by cluster.
        trunk_to_point: ratios of the standard deviations of trunk and point errors, one row each.
        seed: of the first study; the next have the next ones.
        processes: that share the work.
        out: where the record goes, as JSON.
    """
    if table is not None and not table.is_file():
        raise UserError(f"coverage: no table at {table}: --table takes Epoch's chinchilla_svg_extracted.csv")
    designs = [quickstart()] if design != "chinchilla" else []
    designs += [chinchilla(table)] if design != "quickstart" else []
    rows, console = [], Console()
    with workers(processes) as pool:
        for one in designs:
            for ratio in trunk_to_point:
                rows.append(measure(one, ratio, method, replicates, studies, seed, pool))
                console.print(_line(rows[-1]))
    record = {
        "level": LEVEL,
        "replicates": replicates,
        "seed": seed,
        "versions": environment.versions(),
        "commit": environment.commit(),
        "designs": {one.name: _described(one) for one in designs},
        "rows": rows,
    }
    write_json(out, record)
    console.print(f"written: {out}")


def _described(design: Design) -> dict[str, Any]:
    return {
        "points": len(design.points),
        "clusters": len(set(design.points.cluster)),
        "digest": design.points.digest,
        "law": design.law,
        "error": design.error,
        "freedom": None if np.isinf(design.freedom) else design.freedom,
        "target": design.target,
    }


def _line(row: dict[str, Any]) -> str:
    shown = f"{row['design']}, trunk:point {row['trunk_to_point']:g}:1, {row['studies']} studies, {row['labels']}"
    for how in ("by cluster", "by point"):
        cells = (
            f"{name} {c['coverage']:.1%}+-{c['standard_error']:.1%} ({c['width']:.3g})" for name, c in row[how].items()
        )
        shown += f"\n  {how}: " + ", ".join(cells)
    return shown


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
