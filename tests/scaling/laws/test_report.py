import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from scaling.errors import UserError
from scaling.laws import report


@pytest.fixture(scope="module")
def found(ladder) -> report.Report:
    points = ladder(trunk_noise=2e-3, point_noise=2e-3)
    return report.analyse(points, budgets=(1e14, 1e21), bytes_per_token=1.0, replicates=100)


def test_json_says_what_the_report_says(found, tmp_path):
    report.write(found, tmp_path / "fit.json")
    data = json.loads((tmp_path / "fit.json").read_text())
    assert {
        "form", "params", "intervals", "objective", "certificate", "holdout", "allocation", "conventions", "data"
    } <= set(data)  # fmt: skip
    assert data["params"] == pytest.approx(dict(found.fit.params))
    low, high = data["intervals"]["alpha"]
    assert low < data["params"]["alpha"] < high
    assert data["data"] == found.fit.table.digest
    assert data["holdout"]["mean_error"] == pytest.approx(found.holdout.mean_error)
    errors = [row["predicted"] / row["loss"] - 1 for row in data["holdout"]["points"]]
    assert np.mean(np.abs(errors)) == pytest.approx(found.holdout.mean_error)
    assert [row["flops"] for row in data["allocation"]] == [1e14, 1e21]
    assert data["bootstrap"]["indicative"] is True
    assert [p.name for p in tmp_path.iterdir()] == ["fit.json"]


def test_printed_report_answers_the_question(found):
    text = io.StringIO()
    report.show(found, Console(file=text, width=160))
    printed = text.getvalue()
    assert f"mean error {found.holdout.mean_error:.2%}" in printed
    assert "indicative (6 clusters)" in printed
    for column in ("Chinchilla (converged)", "MiniCPM (average)"):
        assert column in printed
    row = found.allocations[1]
    assert f"{row.tokens_per_parameter:.3g} +{row.extrapolation:.1f}" in printed
    chinchilla = next(c for c in found.comparisons if c.name == "Chinchilla (converged)" and c.flops == row.flops)
    assert f"{chinchilla.bytes_per_parameter:.3g} bytes" in printed


def test_a_report_without_a_possible_holdout_says_why(ladder):
    points = ladder(sizes=(12e3, 190e3, 12e3), point_noise=1e-3)
    found = report.analyse(points, replicates=30)
    assert found.holdout is None
    assert "all points have N" in found.holdout_problem
    text = io.StringIO()
    report.show(found, Console(file=text, width=200))
    assert "no check: holding out the largest N" in text.getvalue()
    assert report.to_json(found)["holdout"] is None


def test_budgets_must_be_positive(ladder):
    with pytest.raises(UserError, match="budget -1"):
        report.analyse(ladder(), budgets=(-1.0,))


def test_laws_load_no_training_code():
    program = (
        "import sys, scaling.laws.report; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('models', 'kernels', 'flax', 'optax', 'orbax', 'grain', 'tensorflow', 'seqio', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
