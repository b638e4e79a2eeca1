"""What a fitted law says, printed: law, certificate, held-out check, and the answer beside published ones."""

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable

from analysis.numbers import quantity
from scaling.laws import allocation, conventions, holdout, published
from scaling.laws.allocation import Allocation
from scaling.laws.report import NO_BUDGET, TRAINING_ALONE, Report

GOOD_ERROR = 0.01  # of a prediction, whose price in FLOPs is named


def show(report: Report, console: Console) -> None:
    """Prints the report."""
    console.print(Group(*_parts(report)))


def _parts(report: Report) -> list[RenderableType]:
    fitted = report.fit
    columns = "".join(f"\n  {role}: {note}" for role, note in report.conventions.items())
    return [
        f"[bold]Points[/]  {len(fitted.table)} used{columns}",
        _law(report),
        _certificate(report),
        *([report.lack_of_fit.floor.words(), report.lack_of_fit.words()] if report.lack_of_fit else []),
        _heldout(report),
        *(
            [_answer(report), *_conversions(report), _approaches(report)]
            if report.allocations
            else [_no_answer(report)]
        ),
        *([_sensitivity(report)] if report.sensitivity else []),
    ]


def _law(report: Report) -> RenderableType:
    replicated = report.bootstrap
    grid = RichTable(box=box.SIMPLE_HEAD)
    for heading in ("parameter", "value", replicated.label):
        grid.add_column(heading, justify="left" if heading == "parameter" else "right")
    for name, (low, high) in replicated.param_intervals().items():
        spread = "held" if name in report.fit.form.held else f"{low:.4g} to {high:.4g}"
        grid.add_row(name, f"{report.fit.params[name]:.5g}", spread)
    if report.allocations:
        a, (low, high) = allocation.exponent(replicated)
        grid.add_row(f"a (N_opt ~ C^a{_alone(report)})", f"{a:.4f}", f"{low:.3f} to {high:.3f}")
    return Group(f"[bold]Law[/]  {report.fit.form.formula}", grid)


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
    lines = [_check(check, by, report.by) for by, check in report.holdouts.items()]
    found = report.error_against_compute
    if isinstance(found, str):
        return "\n".join(["[bold]Held out[/]", *lines, f"  [yellow]error by compute: no check: {found}[/]"])
    steps = [f"{row.check.mean_error:.2%} from {row.spent:.2g}" for row in found.rows]
    enough = found.spent_for(GOOD_ERROR)
    within = "not within" if enough is None else f"from {enough:.2g} on within"
    lines.append(
        f"  error of the {holdout.HELDOUT_NAMES[found.by]} by FLOPs fitted on ({found.counting}): {', '.join(steps)}; "
        f"{within} {GOOD_ERROR:.0%}"
    )
    return "\n".join(["[bold]Held out[/]", *lines])


def _check(held: holdout.Holdout | str, by: holdout.By, asked: holdout.By) -> str:
    name = holdout.HELDOUT_NAMES[by]
    if isinstance(held, str):
        return f"  [yellow]{name}: no check: {held}[/]"
    line = (
        f"{name}: {len(held.heldout)} point{'s' * (len(held.heldout) > 1)} predicted from {len(held.fit.table)}, "
        f"mean error {held.mean_error:.2%}, largest {np.max(np.abs(held.relative_error)):.2%}; {held.covered.sum()} of "
        f"{len(held.heldout)} inside the {held.bootstrap.level:.0%} prediction interval{held.bootstrap.caveat}"
    )
    return f"  [bold]{line}[/]" if by == asked else f"  {line}"


def _answer(report: Report) -> RenderableType:
    grid = RichTable(
        title=f"Compute-optimal D/N{_served(report)}: tokens per parameter, and bytes below (our tokens hold "
        f"{report.bytes_per_token:.3g} bytes)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    headline = [law.name for law in published.HEADLINE]
    counted = f"budget, {report.bootstrap.cost.name}"
    for heading in (counted, "N", "D", "this law", report.bootstrap.label, "flat region", *headline):
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
            _flat(row),
            *(
                _ratio(c.tokens_per_parameter, c.bytes_per_parameter, c.extrapolation)
                for c in (peers[name] for name in headline)
            ),
        )
    if report.fit.certificate.identified:
        return grid
    warning = (
        "[yellow]The points do not determine this law (see the certificate): its ratios are indicative at best.[/]"
    )
    return Group(warning, grid)


def _no_answer(report: Report) -> str:
    columns = report.fit.form.columns
    if not {"n", "d"} <= set(columns):
        return NO_BUDGET
    further = [name for name in columns if name not in ("n", "d")]
    settled = " ".join(f"--column {name}=VALUE" for name in further)
    return f"A budget can be spent once {', '.join(further)} is settled: windtunnel allocate with {settled}"


def _flat(row: Allocation) -> str:
    low, high = row.flat_ratio
    return f"{_short(low)} to {_short(high)}\n[dim]loss within {row.tolerance:.1%}[/]"


def _approaches(report: Report) -> RenderableType:
    grid = RichTable(
        title=f"Chinchilla's three approaches on these points (D/N in tokens{_alone(report)})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("approach", "a", *(f"D/N at {row.flops:.2g}" for row in report.allocations)):
        grid.add_column(heading, justify="left" if heading == "approach" else "right")
    notes = []
    for approach in report.approaches:
        if approach.a is None or approach.a_interval is None:
            grid.add_row(approach.name, "-", *("-" for _ in report.allocations))
        else:
            low, high = approach.a_interval
            cells = [
                f"{_short(at.ratio)} ({_short(at.ratio_interval.low)} to {_short(at.ratio_interval.high)})"
                for at in approach.at
            ]
            grid.add_row(approach.name, f"{approach.a:.3f} ({low:.3f} to {high:.3f})", *cells)
        notes += [f"  [dim]- {approach.name}: {problem}[/]" for problem in approach.problems]
    return Group(grid, *notes)


def _sensitivity(report: Report) -> RenderableType:
    first = report.sensitivity[0]
    grid = RichTable(
        title=f"The same points under other conventions, at {conventions.TIMES_LARGEST:g} times the largest run "
        f"({first.level}{_alone(report)})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("convention", "a", "N", "tokens", "D/N"):
        grid.add_column(heading, justify="left" if heading == "convention" else "right")
    for row in report.sensitivity:
        (low, high), (least, most) = row.a_interval, row.ratio_interval
        grid.add_row(
            row.name,
            f"{row.a:.3f} ({low:.3f} to {high:.3f})",
            quantity(row.n),
            quantity(row.d),
            f"{_short(row.ratio)} ({_short(least)} to {_short(most)})",
        )
    a = [row.a for row in report.sensitivity]
    return Group(grid, f"The choice of convention moves a by {max(a) - min(a):.3f}.")


def _conversions(report: Report) -> list[RenderableType]:
    """How the columns compare: a line on units, and one per law on its source, its tokens and its N."""
    words = report.conventions
    aside = " Published ratios are of training alone." if report.inference_tokens else ""
    if report.fit.table.counted is not None:
        aside += " Published laws take a budget for their own 6 N D."
    return [
        "A published ratio is in that paper's own tokens: compare bytes. '+x': orders of magnitude beyond the runs "
        f"that a law was fitted to; beyond 2, indicative.{aside}",
        f"- this law: bytes per token {words['bytes_per_token']}; N: {words.get('n', 'as in the table')}",
        *(f"- {law.name}: {law.conversion}; N: {law.n_convention}; {law.source}" for law in published.HEADLINE),
    ]


def _served(report: Report) -> str:
    tokens = report.inference_tokens
    return f" where the budget also serves {quantity(tokens)} tokens" if tokens else ""


def _alone(report: Report) -> str:
    """Behind what leaves out the tokens that the budgets also serve."""
    return TRAINING_ALONE if report.inference_tokens else ""


def _ratio(tokens: float, in_bytes: float, beyond: float) -> str:
    reach = f" +{beyond:.1f}" if beyond > 0.05 else ""
    return f"{_short(tokens)}{reach}\n[dim]{_short(in_bytes)} bytes[/]"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
