"""From points to an answer: fit, intervals, held-out check, allocation and comparison, as one value."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable

from scaling import storage
from scaling.errors import UserError
from scaling.laws import allocation, fit, holdout, published, table, uncertainty
from scaling.laws.forms import CHINCHILLA, Form

ASSUMED_BYTES_PER_TOKEN = published.CHINCHILLA_CONVERGED.bytes_per_token


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a fit of one table says.

    Attributes:
        fit: the law on all points.
        bootstrap: its replicates.
        holdout: the check on points left out, or None where what is left cannot be fitted.
        holdout_problem: then why, in a sentence; else "".
        allocations: compute-optimal spending, one per budget.
        comparisons: published laws at the same budgets.
        bytes_per_token: of the table's tokens.
        conventions: what N, D, C, loss and bytes per token mean here, in words by name.
    """

    fit: fit.Fit
    bootstrap: uncertainty.Bootstrap
    holdout: holdout.Holdout | None
    holdout_problem: str
    allocations: tuple[allocation.Allocation, ...]
    comparisons: tuple[published.Comparison, ...]
    bytes_per_token: float
    conventions: dict[str, str]


def analyse(
    points: table.Table,
    form: Form = CHINCHILLA,
    *,
    by: holdout.By = "largest_n",
    budgets: Sequence[float] = (),
    bytes_per_token: float | None = None,
    delta: float = 1e-3,
    starts: int = 64,
    replicates: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Report:
    """Fits, bootstraps, holds out, allocates and compares.

    Args:
        points: the table.
        form: the law's form.
        by: what the held-out check leaves out.
        budgets: FLOPs to allocate; by default 1, 10 and 100 times the table's largest.
        bytes_per_token: of the table's tokens; where not given, Chinchilla's is assumed and marked so.
        delta: Huber threshold in log loss.
        starts: starts of the fit.
        replicates: of the bootstrap.
        level: nominal coverage of intervals.
        seed: of starts and replicates.

    Raises:
        UserError: the table cannot identify the form, or a budget is not positive.
    """
    bad = [budget for budget in budgets if not budget > 0]
    if bad:
        raise UserError(f"budget {bad[0]}: FLOPs must be positive")
    fitted = fit.fit(form, points, delta=delta, starts=starts, seed=seed)
    replicated = uncertainty.bootstrap(fitted, replicates=replicates, level=level, seed=seed)
    held, problem = None, ""
    try:
        held = holdout.holdout(form, points, by, delta=delta, level=level, replicates=replicates, seed=seed)
    except UserError as error:
        problem = str(error)
    largest = float(points.columns["flops"].max())
    budgets = tuple(budgets) or (largest, 10 * largest, 100 * largest)
    ratio = ASSUMED_BYTES_PER_TOKEN if bytes_per_token is None else bytes_per_token
    origin = "assumed, as Chinchilla's" if bytes_per_token is None else "as given"
    return Report(
        fit=fitted,
        bootstrap=replicated,
        holdout=held,
        holdout_problem=problem,
        allocations=tuple(allocation.allocate(replicated, budget, ratio) for budget in budgets),
        comparisons=tuple(published.compare(budgets, ratio)),
        bytes_per_token=ratio,
        conventions=dict(points.conventions) | {"budget": "C = 6 N D", "bytes_per_token": f"{ratio:.3g} ({origin})"},
    )


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON data, numbers in full; a value that does not exist is null."""
    fitted, replicated, held = report.fit, report.bootstrap, report.holdout
    evidence = dataclasses.asdict(fitted.certificate) | {"identified": fitted.certificate.identified}
    data: dict[str, Any] = {
        "form": fitted.form.name,
        "formula": fitted.form.formula,
        "params": dict(fitted.params),
        "units": dict(fitted.form.units),
        "intervals": {name: list(ends) for name, ends in replicated.param_intervals().items()},
        "level": replicated.level,
        "bootstrap": {
            "method": replicated.method,
            "replicates": len(replicated.theta),
            "clusters": replicated.clusters,
            "indicative": replicated.indicative,
            "correction": replicated.correction,
            "audit": replicated.audit._asdict(),
        },
        "objective": fitted.objective,
        "delta": fitted.delta,
        "points": len(fitted.table),
        "certificate": evidence,
        "holdout": None,
        "holdout_problem": report.holdout_problem or None,
        "allocation": [dataclasses.asdict(row) for row in report.allocations],
        "published": [dataclasses.asdict(row) for row in report.comparisons],
        "conventions": report.conventions,
        "data": fitted.table.digest,
    }
    if held is not None:
        data["holdout"] = {
            "by": held.by,
            "params": dict(held.fit.params),
            "mean_error": held.mean_error,
            "covered": int(held.covered.sum()),
            "points": [
                {
                    "n": n,
                    "d": d,
                    "loss": loss,
                    "predicted": predicted,
                    "interval": [low, high],
                    "error": error,
                }
                for n, d, loss, predicted, low, high, error in zip(
                    held.heldout.columns["n"],
                    held.heldout.columns["d"],
                    held.heldout.loss,
                    held.predicted,
                    held.interval.low,
                    held.interval.high,
                    held.relative_error,
                    strict=True,
                )
            ],
        }
    return _plain(data)  # type: ignore[no-any-return]


def write(report: Report, path: Path) -> None:
    """Writes the report as JSON, whole or not at all."""
    storage.write_json(path, to_json(report))


def _plain(data: Any) -> Any:
    """Nested data with numpy scalars as Python's and non-finite numbers as null."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not np.isfinite(data) else data


def show(report: Report, console: Console) -> None:
    """Prints the report."""
    console.print(Group(*_parts(report)))


def _parts(report: Report) -> list[RenderableType]:
    fitted = report.fit
    columns = ", ".join(f"{role}: {note}" for role, note in report.conventions.items())
    return [
        f"[bold]Points[/]  {len(fitted.table)} used. {columns}",
        _law(report),
        _certificate(report),
        _heldout(report),
        _answer(report),
    ]


def _law(report: Report) -> RenderableType:
    replicated = report.bootstrap
    grid = RichTable(title=f"Law  {report.fit.form.formula}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("parameter", "value", replicated.label):
        grid.add_column(heading, justify="left" if heading == "parameter" else "right")
    for name, (low, high) in replicated.param_intervals().items():
        grid.add_row(name, f"{report.fit.params[name]:.5g}", f"{low:.4g} to {high:.4g}")
    a, (low, high) = allocation.exponent(replicated)
    grid.add_row("a (N_opt ~ C^a)", f"{a:.4f}", f"{low:.3f} to {high:.3f}")
    return grid


def _certificate(report: Report) -> RenderableType:
    evidence, audit = report.fit.certificate, report.bootstrap.audit
    lines = [
        f"[bold]Certificate[/]  objective {report.fit.objective:.10g}; gradient {evidence.gradient_norm:.1e}; "
        f"Hessian condition {evidence.hessian_condition:.3g}; {evidence.share_at_optimum:.0%} of "
        f"{evidence.starts} starts reached this optimum; "
        + (
            "no other basin seen"
            if evidence.second_basin is None
            else f"next basin at objective {evidence.second_basin[0]:.6g}"
        )
        + f". Bootstrap: {report.bootstrap.method}, {report.bootstrap.clusters} clusters; "
        f"{audit.missed} of {audit.replicates} audited replicates missed a lower optimum."
    ]
    lines += [f"  [yellow]- {finding}[/]" for finding in evidence.findings]
    return "\n".join(lines)


def _heldout(report: Report) -> RenderableType:
    held = report.holdout
    if held is None:
        return f"[bold]Held out[/]  [yellow]no check: {report.holdout_problem}[/]"
    return (
        f"[bold]Held out[/]  {holdout.HELDOUT_NAMES[held.by]}: {len(held.heldout)} points predicted from "
        f"{len(held.fit.table)}, mean error {held.mean_error:.2%}, largest "
        f"{np.max(np.abs(held.relative_error)):.2%}; {held.covered.sum()} of {len(held.heldout)} inside the "
        f"{held.level:.0%} prediction interval"
    )


def _answer(report: Report) -> RenderableType:
    grid = RichTable(
        title=f"Compute-optimal D/N: tokens per parameter, and bytes below (our tokens hold "
        f"{report.bytes_per_token:.3g} bytes)",
        title_justify="left",
        caption="A published ratio is in that paper's own tokens: compare bytes. '+x': orders of magnitude beyond the "
        "runs that a law was fitted to; beyond 2, indicative.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    headline = [law.name for law in published.HEADLINE]
    for heading in ("budget", "N", "D", "this law", report.bootstrap.label, *headline):
        grid.add_column(heading, justify="right", overflow="fold")
    for row in report.allocations:
        peers = {c.name: c for c in report.comparisons if c.flops == row.flops}
        low, high = row.ratio_interval
        scale = report.bytes_per_token
        grid.add_row(
            f"{row.flops:.3g}",
            f"{row.n:.3g}",
            f"{row.d:.3g}",
            _ratio(row.tokens_per_parameter, row.bytes_per_parameter, row.extrapolation),
            f"{_short(low)} to {_short(high)}\n[dim]{_short(low * scale)} to {_short(high * scale)}[/]",
            *(
                _ratio(c.tokens_per_parameter, c.bytes_per_parameter, c.extrapolation)
                for c in (peers[name] for name in headline)
            ),
        )
    return grid


def _ratio(tokens: float, in_bytes: float, beyond: float) -> str:
    reach = f" +{beyond:.1f}" if beyond > 0.05 else ""
    return f"{_short(tokens)}{reach}\n[dim]{_short(in_bytes)} bytes[/]"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
