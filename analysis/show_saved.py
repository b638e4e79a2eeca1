"""What a law read from fit.json says of a run, a budget or a target, printed."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from analysis.numbers import quantity
from scaling.errors import UserError
from scaling.laws import allocation
from scaling.laws.allocation import Allocation
from scaling.laws.saved import SavedLaw


def show_prediction(law: SavedLaw, columns: Mapping[str, float], console: Console) -> None:
    """Prints the loss of a run with its intervals, and how far it lies outside the points fitted.

    Raises:
        UserError: a column that the law reads is missing or not positive.
    """
    law.check_given(columns)
    found = law.predict(columns)
    at = ", ".join(f"{name} = {value:g}" for name, value in columns.items())
    console.print(f"[bold]{found.loss.item():.4f}[/]  predicted at {at} by {law.form.formula}")
    for what, (low, high) in (("the law passes there", found.law), ("a new run ends there", found.new_run)):
        console.print(f"  {low.item():.4f} to {high.item():.4f}  {law.level:.0%} interval{law.caveat}: where {what}")
    console.print(_conventions(law), highlight=False)
    _warn(law, law.outside(columns), console)


def show_allocation(
    law: SavedLaw, budgets: Sequence[float], inference_tokens: float, given: Mapping[str, float], console: Console
) -> None:
    """Prints how budgets are best spent.

    Raises:
        UserError: as `allocation.allocate`.
    """
    given = _settled(law, given)
    rows = [
        allocation.allocate(law, flops, law.bytes_per_token, inference_tokens=inference_tokens, given=given)
        for flops in budgets
    ]
    _print(law, rows, inference_tokens, console)


def show_cheapest(
    law: SavedLaw, loss: float, inference_tokens: float, given: Mapping[str, float], console: Console
) -> None:
    """Prints the least cost of a loss, and how it is spent.

    Raises:
        UserError: as `allocation.cheapest`.
    """
    if not 0 < loss < np.inf:
        raise UserError(f"loss {loss:g}: a positive, finite number to reach, such as 2.5")
    given = _settled(law, given)
    found = allocation.cheapest(law, loss, law.bytes_per_token, inference_tokens=inference_tokens, given=given)
    low, high = found.flops_interval
    console.print(
        f"loss {loss:g} for [bold]{found.flops:.3g}[/] FLOPs "
        f"({law.level:.0%} interval {low:.3g} to {high:.3g}{law.caveat})"
    )
    if found.out_of_reach:
        console.print(f"  [yellow]{found.out_of_reach:.1%} of the replicates never reach it[/]")
    if inference_tokens:
        console.print(f"  {found.saving:.1%} less, with serving, than the model that is optimal for training alone")
    _print(law, [found.allocation], inference_tokens, console)


def _settled(law: SavedLaw, given: Mapping[str, float]) -> dict[str, float]:
    """The columns beside N and D, all of them, which the budget pays for.

    Raises:
        UserError: one of them is missing, or N or D is among them.
    """
    if chosen := {"n", "d"} & set(given):
        raise UserError(f"{', '.join(sorted(chosen))}: what a budget is spent on is the answer, and cannot be given")
    law.check_given(given)
    missing = [name for name in law.form.columns if name not in {"n", "d", *given}]
    if missing and {"n", "d"} <= set(law.form.columns):
        wanted = " ".join(f"--column {name}=VALUE" for name in missing)
        raise UserError(f"{law.form.name!r} also reads {', '.join(missing)}: settle it with {wanted}")
    return dict(given)


def _print(law: SavedLaw, rows: Sequence[Allocation], inference_tokens: float, console: Console) -> None:
    served = f", {quantity(inference_tokens)} tokens served" if inference_tokens else ""
    grid = RichTable(
        title=f"Spending under {law.form.formula}{served} ({law.level:.0%} intervals below{law.caveat})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    columns = ("training", "N", "D", "D/N, tokens", "D/N, bytes", "loss", "N within 0.1% of that loss")
    for heading in (f"budget, {law.cost.name}", *columns):
        grid.add_column(heading, justify="right")
    for row in rows:
        scale = law.bytes_per_token
        cells = [
            (row.n, row.n_interval, quantity),
            (row.d, row.d_interval, quantity),
            (row.tokens_per_parameter, row.ratio_interval, quantity),
            (row.bytes_per_parameter, [end * scale for end in row.ratio_interval], quantity),
            (row.loss, row.loss_interval, "{:.4f}".format),
        ]
        grid.add_row(
            f"{row.flops:.3g}",
            f"{row.training_flops:.3g}",
            *(f"{say(value)}\n[dim]{say(low)} to {say(high)}[/]" for value, (low, high), say in cells),
            f"{quantity(row.flat_n.low)} to {quantity(row.flat_n.high)}",
        )
    console.print(grid)
    console.print(_conventions(law), highlight=False)
    _warn(law, [], console)
    for row in rows:
        if row.extrapolation > allocation.INDICATIVE_BEYOND:
            console.print(
                f"[yellow]{row.flops:.3g} FLOPs: {row.extrapolation:.1f} orders of magnitude beyond the largest run: "
                "indicative[/]"
            )


def _conventions(law: SavedLaw) -> str:
    """What the numbers count, in a line."""
    names = {"n": "N", "d": "D", "flops": "C", "budget": "budget", "bytes_per_token": "bytes per token"}
    read = {"budget", "bytes_per_token"} | set(law.form.columns)
    said = [f"{name}: {law.conventions[role]}" for role, name in names.items() if role in read & set(law.conventions)]
    return f"[dim]{escape('; '.join(said))}[/]"


def _warn(law: SavedLaw, problems: Sequence[str], console: Console) -> None:
    if not law.identified:
        console.print("[yellow]The points do not determine this law (see its certificate): indicative at best[/]")
    for problem in problems:
        console.print(f"[yellow]{problem}[/]")
