"""A report as JSON: what `windtunnel fit` writes, and what `predict`, `allocate` and `scaling.laws.saved` read."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaling import storage
from scaling.laws import saved
from scaling.laws.holdout import ErrorAgainstCompute, Holdout
from scaling.laws.report import Report


def write(report: Report, path: Path) -> None:
    """Writes the report as JSON, whole or not at all."""
    storage.write_json(path, to_json(report))


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON data, numbers in full; a value that does not exist is null."""
    fitted, replicated = report.fit, report.bootstrap
    evidence = dataclasses.asdict(fitted.certificate) | {"identified": fitted.certificate.identified}
    lack = report.lack_of_fit
    data = {
        "form": fitted.form.name,
        "formula": fitted.form.formula,
        "params": dict(fitted.params),
        "units": dict(fitted.form.units),
        "held": dict(fitted.form.held),
        "intervals": {name: list(ends) for name, ends in replicated.param_intervals().items()},
        "level": replicated.level,
        "bootstrap": {
            "method": replicated.method,
            "replicates": len(replicated.theta),
            "clusters": replicated.clusters,
            "indicative": replicated.indicative,
            "freedom": replicated.freedom,
            "errors": replicated.words,
            "audit": replicated.audit._asdict(),
        },
        "objective": fitted.objective,
        "delta": fitted.delta,
        "points": len(fitted.table),
        "certificate": evidence,
        "holdout": None if report.holdout is None else _holdout(report.holdout),
        "holdout_problem": report.holdout_problem or None,
        "holdouts": {by: _summary(check) for by, check in report.holdouts.items()},
        "error_against_compute": _error_against_compute(report.error_against_compute),
        "noise": None if lack is None else {"floor": lack.floor.words(), "lack_of_fit": lack.words()},
        "inference_tokens": report.inference_tokens,
        "allocation": [dataclasses.asdict(row) for row in report.allocations],
        "published": [dataclasses.asdict(row) for row in report.comparisons],
        "approaches": [dataclasses.asdict(row) for row in report.approaches],
        "sensitivity": [dataclasses.asdict(row) for row in report.sensitivity],
        "bytes_per_token": report.bytes_per_token,
        "conventions": report.conventions,
        "data": fitted.table.digest,
    }
    return plain(data | saved.law_of(replicated))  # type: ignore[no-any-return]


def _summary(check: Holdout | str) -> dict[str, Any]:
    if isinstance(check, str):
        return {"problem": check}
    return {
        "points": len(check.heldout),
        "mean_error": check.mean_error,
        "largest_error": np.max(np.abs(check.relative_error)),
        "covered": int(check.covered.sum()),
    }


def _holdout(held: Holdout) -> dict[str, Any]:
    columns = {name: held.heldout.columns[name] for name in held.fit.form.columns}
    rows = {
        **columns,
        "loss": held.heldout.loss,
        "predicted": held.predicted,
        "interval": list(zip(*held.interval, strict=True)),
        "error": held.relative_error,
    }
    return {
        "by": held.by,
        "params": dict(held.fit.params),
        "mean_error": held.mean_error,
        "covered": int(held.covered.sum()),
        "clusters": held.bootstrap.clusters,
        "indicative": held.bootstrap.indicative,
        "points": [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)],
    }


def _error_against_compute(found: ErrorAgainstCompute | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"problem": found}
    rows = [
        {"cut": row.cut, "spent": row.spent, "points": len(row.check.fit.table), "mean_error": row.check.mean_error}
        for row in found.rows
    ]
    return {"by": found.by, "counting": found.counting, "rows": rows}


def plain(data: Any) -> Any:
    """Nested data with numpy scalars as Python's and non-finite numbers as null."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not np.isfinite(data) else data
