"""What a study found: its points, a law for every evaluation domain, and three figures. Reads records only."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from analysis import plots
from analysis.fit_table import write
from scaling.errors import UserError
from scaling.laws import report, table
from scaling.records import RunStore, plan, points


def report_study(store: RunStore, study: str, console: Console) -> None:
    """Prints a study's points and laws, and writes them with their figures into the study's folder.

    Written: points.csv, loss_curves.{png,pdf}, and per domain a folder with fit.json, points_and_law and
    optimal_ratio. What cannot be fitted is said in words; the rest is shown all the same.
    """
    planned, found, folder = plan(store, study), points(store, study), store.study_dir(study)
    asked = sum(entry["is_point"] for entry in planned["entries"])
    if found.empty:
        raise UserError(f"study {study!r} has no finished point yet: `windtunnel run` trains it")
    if len(found) < asked:
        console.print(f"[yellow]{asked - len(found)} of {asked} points are not finished: left out below[/]")
    _print_points(found, planned["domains"], console)
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / "points.csv", index=False)
    plots.save(plots.loss_curves(curves(store, planned)), folder / "loss_curves")
    for domain in planned["domains"]:
        console.rule(f"law on {domain}")
        try:
            _fit_domain(found, domain, planned, folder / domain, console)
        except UserError as problem:
            console.print(f"[yellow]no law on {domain}:[/] {problem}")
    _print_saving(planned, console)
    console.print(f"Tables and figures: {folder}")


def curves(store: RunStore, planned: dict) -> pd.DataFrame:
    """The step logs of a plan's runs in one table, smoothed: run, kind, parent, N, tokens, loss."""
    logs = []
    for entry in planned["entries"]:
        log = store.log(entry["run"])
        if log.empty:
            continue
        log = log[log["step"] <= entry["stop"]]
        window = max(1, (entry["stop"] - entry["start"]) // 40)
        smooth = log["loss"].rolling(window, min_periods=1).mean()
        logs.append(
            pd.DataFrame(
                {
                    "run": entry["label"],
                    "kind": entry["kind"],
                    "parent": entry["trunk_label"] if entry["start"] else "",
                    "N": entry["N"],
                    "tokens": log["tokens"],
                    "loss": smooth,
                }
            )
        )
    return pd.concat(logs, ignore_index=True)


def _fit_domain(found: pd.DataFrame, domain: str, planned: dict, folder: Path, console: Console) -> None:
    law = planned["law"]
    fitted = table.from_frame(
        found,
        n=law["n"],
        d="D_total",
        loss=f"nats_per_token/{domain}",
        flops=f"C_{law['flops']}",
        cluster="trunk",
    )
    analysed = report.analyse(
        fitted, by=law["holdout"], budgets=law["budgets"], bytes_per_token=planned["bytes_per_token"][domain]
    )
    report.show(analysed, console)
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
            plots.si(row["N"]),
            plots.si(row["D_total"]),
            f"{row['D_total'] / row['N']:.0f}",
            f"{row['D_total'] / row['D_unique']:.2f}",
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
