"""What a study found: its points, a law for every evaluation domain, and their figures. Reads records only."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from analysis import plots, show_law
from analysis.fit_table import write
from analysis.numbers import quantity
from scaling import storage
from scaling.errors import UserError
from scaling.laws import conventions, report, table
from scaling.laws.forms import CHINCHILLA
from scaling.records import RunStore, plan, points, status

N_MEANS = {"N": "non-embedding parameters", "N_total": "all parameters"}


def report_study(store: RunStore, study: str, console: Console) -> None:
    """Prints a study's points and laws, and writes them with their figures into the study's folder.

    Written: points.csv, loss_curves.{png,pdf}, and (where the study asks for a law) per domain a folder with
    fit.json and the figures of `plots.of_report`. What cannot be fitted is said in words; the rest is shown all the
    same.

    Raises:
        UserError: not one point is finished.
    """
    planned, found, folder = plan(store, study), points(store, study), store.study_dir(study)
    asked = sum(entry["is_point"] for entry in planned["entries"])
    if found.empty:
        raise UserError(_nothing_to_report(store, study))
    if len(found) < asked:
        console.print(f"[yellow]{asked - len(found)} of {asked} points are not finished: left out below[/]")
    _print_points(found, planned["domains"], console)
    storage.write_text(folder / "points.csv", found.to_csv(index=False))
    plots.save(plots.loss_curves(curves(store, planned)), folder / "loss_curves")
    if planned["law"] is not None:
        for domain in planned["domains"]:
            console.rule(f"law on {domain}")
            try:
                _fit_domain(found, domain, planned, folder / domain, console)
            except UserError as problem:
                console.print(f"[yellow]no law on {domain}:[/] {problem}")
    _print_saving(planned, console)
    console.print(f"Tables and figures: {folder}")


def curves(store: RunStore, planned: dict) -> pd.DataFrame:
    """The step logs of a plan's runs in one table: run, kind, N, tokens, loss.

    Losses are means over 1/40 of a run's steps from 0 on; a branch is averaged together with the end of its trunk,
    so that it begins where that stands.
    """
    logs = []
    for entry in planned["entries"]:
        log = store.log(entry["run"])
        if log.empty:
            continue
        log = log[log["step"] <= entry["stop"]]
        window = max(1, entry["stop"] // 40)
        loss = log["loss"]
        if entry["start"]:
            trunk = store.log(entry["trunk"])
            loss = pd.concat([trunk["loss"][trunk["step"] <= entry["start"]].tail(window), loss])
        smooth = loss.rolling(window, min_periods=1, center=True).mean().tail(len(log))
        logs.append(
            pd.DataFrame(
                {
                    "run": entry["label"],
                    "kind": entry["kind"],
                    "N": entry["N"],
                    "tokens": log["tokens"].to_numpy(),
                    "loss": smooth.to_numpy(),
                }
            )
        )
    return pd.concat(logs, ignore_index=True)


def _nothing_to_report(store: RunStore, study: str) -> str:
    runs = status(store, study).values()
    failed = sum(run.state == "failed" for run in runs)
    if failed == len(runs):
        return f"study {study!r} has no finished point, every run failed: see `windtunnel status`"
    if failed:
        return f"study {study!r} has no finished point, {failed} of {len(runs)} runs failed: see `windtunnel status`"
    return f"study {study!r} has no finished point yet: `windtunnel run` trains it"


def _fit_domain(found: pd.DataFrame, domain: str, planned: dict, folder: Path, console: Console) -> None:
    law, column = planned["law"], f"nats_per_token/{domain}"
    evaluated = found if column not in found else found.dropna(subset=[column])
    if column not in found or evaluated.empty:
        raise UserError("no point is evaluated on it yet; `windtunnel run` evaluates them")
    if len(evaluated) < len(found):
        console.print(f"[yellow]{len(found) - len(evaluated)} points are not evaluated on {domain}: left out[/]")
    columns = {"n": law["n"], "d": "D_total", "loss": column, "flops": f"C_{law['flops']}", "cluster": "trunk"}
    columns |= {"d_stable": "D_stable"}
    units = {"n": 1, "d": 1, "flops": 1}
    fitted = table.from_frame(evaluated, columns=columns, units=units)
    analysed = report.analyse(
        fitted,
        alternatives=conventions.alternatives(evaluated, CHINCHILLA, columns, units),
        by=law["holdout"],
        budgets=law["budgets"],
        bytes_per_token=planned["bytes_per_token"],
        n_means=N_MEANS[law["n"]],
    )
    show_law.show(analysed, console)
    write(analysed, folder)


def _print_points(found: pd.DataFrame, domains: list[str], console: Console) -> None:
    grid = RichTable(title="Points: loss at the end of every branch, on held-out text", title_justify="left")
    headings = ["branch", "N", "D", "D/N", "epochs", "C (6ND)"]
    headings += [f"{domain}, {unit}" for domain in domains for unit in ("nats/token", "bits/byte")]
    for heading in headings:
        grid.add_column(heading, justify="left" if heading == "branch" else "right")
    for _, row in found.iterrows():
        losses = [row.get(f"{unit}/{domain}") for domain in domains for unit in ("nats_per_token", "bits_per_byte")]
        grid.add_row(
            row["label"],
            quantity(row["N"]),
            quantity(row["D_total"]),
            f"{row['D_total'] / row['N']:.0f}",
            f"{row['epochs']:.2f}",
            f"{row['C_6ND']:.2e}",
            *("" if loss is None or pd.isna(loss) else f"{loss:.4f}" for loss in losses),
        )
    console.print(grid)


def _print_saving(planned: dict, console: Console) -> None:
    spent, cosine = planned["flops_spent"], planned["flops_cosine"]
    console.print(
        f"[bold]Saved[/]  trunks and branches took {spent:.3g} FLOPs (6ND); training every point from scratch "
        f"with its own cosine would have taken {cosine:.3g}, {cosine / spent:.2f} times as many."
    )
