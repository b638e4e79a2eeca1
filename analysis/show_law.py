"""What a fitted law says, printed: law, certificate, held-out check, and the answer beside published ones."""

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable

from scaling.laws import allocation, holdout, published
from scaling.laws.report import Report


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
        *_conversions(report),
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
        f"{held.bootstrap.level:.0%} prediction interval{held.bootstrap.caveat}"
    )


def _answer(report: Report) -> RenderableType:
    grid = RichTable(
        title=f"Compute-optimal D/N: tokens per parameter, and bytes below (our tokens hold "
        f"{report.bytes_per_token:.3g} bytes)",
        title_justify="left",
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
    if report.fit.certificate.identified:
        return grid
    warning = (
        "[yellow]The points do not determine this law (see the certificate): its ratios are indicative at best.[/]"
    )
    return Group(warning, grid)


def _conversions(report: Report) -> list[RenderableType]:
    """How the columns compare: a line on units, and one per law on its source, its tokens and its N."""
    conventions = report.conventions
    return [
        "A published ratio is in that paper's own tokens: compare bytes. '+x': orders of magnitude beyond the runs "
        "that a law was fitted to; beyond 2, indicative.",
        f"- this law: bytes per token {conventions['bytes_per_token']}; N: {conventions.get('n', 'as in the table')}",
        *(f"- {law.name}: {law.conversion}; N: {law.n_convention}; {law.source}" for law in published.HEADLINE),
    ]


def _ratio(tokens: float, in_bytes: float, beyond: float) -> str:
    reach = f" +{beyond:.1f}" if beyond > 0.05 else ""
    return f"{_short(tokens)}{reach}\n[dim]{_short(in_bytes)} bytes[/]"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
