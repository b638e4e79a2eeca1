import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import conventions, report, report_json


@pytest.fixture(scope="module")
def found(ladder) -> report.Report:
    points = ladder(trunk_noise=2e-3, point_noise=2e-3)
    return report.analyse(points, budgets=(1e14, 1e21), bytes_per_token=1.0, replicates=100)


def test_json_says_what_the_report_says(found, tmp_path):
    report_json.write(found, tmp_path / "fit.json")
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
    assert data["holdout"]["clusters"] == 5
    counted = {row["name"]: row["n_convention"] for row in data["published"]}
    assert counted["Chinchilla (our refit)"] == "all parameters"
    assert counted["MiniCPM (average)"] == "non-embedding parameters"
    assert [p.name for p in tmp_path.iterdir()] == ["fit.json"]


def test_one_quantity_has_one_interval(ladder):
    """The row of the report's own convention is its own fit at its own level, not another bootstrap of it."""
    points = ladder(point_noise=2e-3)
    frame = pd.DataFrame({"N": points.columns["n"], "N_total": points.columns["n"] + 4000.0, "D": points.columns["d"]})
    frame = frame.assign(loss=points.loss, trunk=points.cluster)
    alternatives = conventions.alternatives(frame)
    found = report.analyse(alternatives[0].table, alternatives=alternatives, replicates=120, level=0.8, seed=5)
    own, other = found.sensitivity
    budget = 10 * points.budgets.max()
    assert own.flops == pytest.approx(budget)
    at = found.allocations[1]
    assert at.flops == pytest.approx(budget)
    assert tuple(own.ratio_interval) == pytest.approx(tuple(at.ratio_interval), rel=1e-12)
    assert own.level == other.level == found.bootstrap.label
    assert own.params == found.fit.params


def test_a_report_without_a_possible_holdout_says_why(ladder):
    points = ladder(sizes=(12e3, 190e3, 12e3), point_noise=1e-3)
    found = report.analyse(points, replicates=100)
    assert found.holdout is None
    assert "all points have N" in found.holdout_problem
    assert report_json.to_json(found)["holdout"] is None


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"budgets": (1e15, -1.0)}, "budget -1.0: FLOPs must be a positive, finite number"),
        ({"budgets": (math.inf,)}, "budget inf"),
        ({"budgets": (math.nan,)}, "budget nan"),
        ({"bytes_per_token": 0.0}, "bytes per token 0.0: a positive number"),
        ({"bytes_per_token": math.nan}, "bytes per token nan"),
        ({"replicates": 0}, "0 replicates: an interval's ends need at least 100"),
        ({"level": 1.0}, "level 1.0: the coverage of intervals lies between 0 and 1"),
        ({"level": 0.0}, "level 0.0"),
    ],
)
def test_senseless_arguments_are_refused_in_one_line(ladder, argument, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        report.analyse(ladder(), **argument)
    assert "\n" not in str(caught.value)


def test_laws_load_no_training_code():
    program = (
        "import sys, scaling.laws.report; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('models', 'kernels', 'flax', 'optax', 'orbax', 'grain', 'tensorflow', 'seqio', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
