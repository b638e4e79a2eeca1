import dataclasses
import json

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.laws import allocation, counting, fit, intervals, saved, uncertainty
from scaling.laws.forms import CHINCHILLA, FORMS


@pytest.fixture(scope="module")
def replicated(ladder) -> uncertainty.Bootstrap:
    fitted = fit.fit(CHINCHILLA, ladder(trunk_noise=2e-3, point_noise=2e-3))
    return uncertainty.bootstrap(fitted, replicates=200, audit_share=0)


@pytest.fixture(scope="module")
def written(replicated) -> dict:
    """What a fit.json holds of a law, after its way through text."""
    data = {
        "form": "chinchilla",
        "params": replicated.fit.params,
        "level": 0.9,
        "bootstrap": {"clusters": 6, "freedom": 3},
        "certificate": {"identified": True},
        "bytes_per_token": 1.0,
        "conventions": {"n": "column 'N'", "budget": "C = 6 N D with this N"},
    }
    return json.loads(json.dumps(data | saved.law_of(replicated)))


@pytest.fixture
def law(written, tmp_path) -> saved.SavedLaw:
    (tmp_path / "fit.json").write_text(json.dumps(written))
    return saved.load(tmp_path / "fit.json")


def test_a_saved_law_says_what_the_bootstrap_said(law, replicated):
    columns = {"n": np.array([2e4, 1e6]), "d": np.array([1e6, 1e8])}
    found = law.predict(columns, seed=3)
    np.testing.assert_allclose(found.loss, replicated.fit.predict(columns), rtol=1e-14)
    np.testing.assert_allclose(found.law, replicated.interval(replicated.predict(columns)), rtol=1e-14)
    np.testing.assert_allclose(found.new_run, replicated.prediction_interval(columns, seed=3), rtol=1e-14)
    assert found.new_run.low[0] < found.law.low[0]  # far out the law's own uncertainty is all there is to see
    assert found.new_run.high[0] > found.law.high[0]
    assert law.indicative
    assert law.largest_budget == pytest.approx(6 * 190e3**2 * 80)


def test_expanded_percentiles_approach_plain_ones_with_many_clusters():
    """Student's t with five degrees of freedom reaches 2.015 where the normal reaches 1.645."""
    values = np.random.default_rng(0).normal(size=200_000)
    assert intervals.expanded_percentiles(values, 0.9, 5).high == pytest.approx(2.015, abs=0.02)
    assert intervals.expanded_percentiles(values, 0.9, 10**6).high == pytest.approx(1.645, abs=0.02)


def test_scaled_residuals_have_the_spread_of_the_errors():
    """Residuals of a straight line through points with errors of 1 are smaller than 1 by sqrt((N - P) / N)."""
    rng = np.random.default_rng(0)
    design = np.stack([np.ones(8), np.arange(8.0)], -1)
    off = np.eye(8) - design @ np.linalg.pinv(design)
    pools = [intervals.scaled_residuals(off @ rng.normal(size=8), 2) for _ in range(4000)]
    assert np.mean(np.square(pools)) == pytest.approx(1, abs=0.03)


def test_among_the_points_nothing_is_said(law):
    assert law.outside({"n": 47e3, "d": 47e3 * 40}) == []
    assert law.outside({"n": 190e3, "d": 190e3 * 80}) == []


def test_how_far_outside_is_said_in_orders_of_magnitude(law):
    near = law.outside({"n": 190e4, "d": 47e3 * 60})
    assert [line.split(" is ")[0] for line in near] == ["N = 1.9e+06", "C = 6 N D = 3.21e+13"]
    assert "1 orders of magnitude above the points fitted (1.2e+04 to 1.9e+05)" in near[0]
    far = law.outside({"n": 12e3, "d": 240e3 / 1e3})
    assert "3 orders of magnitude below" in far[0]
    assert far[-1] == "beyond 2 orders of magnitude a prediction is indicative"
    assert "indicative" not in near[-1]


def test_within_both_ranges_but_off_the_diagonal_is_outside_the_hull(law):
    (line,) = law.outside({"n": 180e3, "d": 300e3})
    assert "outside their convex hull" in line


def test_a_table_on_a_line_has_no_hull(replicated, tmp_path, written):
    line = {"n": np.array([1e3, 1e4, 1e5]), "d": np.array([2e4, 2e5, 2e6])}
    table = dataclasses.replace(replicated.fit.table, columns=line)
    on_line = dataclasses.replace(replicated, fit=dataclasses.replace(replicated.fit, table=table))
    (tmp_path / "fit.json").write_text(json.dumps(written | saved.law_of(on_line)))
    assert saved.load(tmp_path / "fit.json").outside({"n": 1e4, "d": 2e6}) == []


def test_a_law_of_compute_needs_no_sizes(law):
    compute = dataclasses.replace(law, form=FORMS["compute"])
    assert compute.outside({"flops": 6 * 47e3**2 * 40}) == []
    assert "C = 1e+17 is" in compute.outside({"flops": 1e17})[0]


def test_a_prediction_needs_the_columns_of_the_law(law):
    with pytest.raises(UserError, match="reads n, d: d not given"):
        law.predict({"n": 1e6})
    with pytest.raises(UserError, match=r"n = -1: a positive, finite number"):
        law.outside({"n": -1, "d": 1e6})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "is no fit.json"),
        ('{"form": "chinchilla", "params": {}}', "without replicates, errors, range, level"),
    ],
)
def test_foreign_files_are_named(tmp_path, text, problem):
    path = tmp_path / "fit.json"
    path.write_text(text)
    with pytest.raises(UserError, match=problem) as found:
        saved.load(path)
    assert str(path) in str(found.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"form": "astrology"}, "of form 'astrology', known here: chinchilla"),
        ({"params": {"E": 1.0}}, "damaged \\('A' is missing\\)"),
        ({"errors": []}, "damaged \\(replicates or errors"),
        ({"replicates": {name: ["x"] for name in CHINCHILLA.params}}, "damaged \\(could not convert"),
        ({"replicates": {name: [1.0] * (1 + (name == "A")) for name in CHINCHILLA.params}}, "of unequal length"),
        ({"range": {"n": [1, 2, 3]}}, "damaged \\(too many values"),
        ({"bootstrap": None}, "damaged"),
        ({"certificate": None}, "damaged"),
        ({"certificate": {}}, "damaged \\('identified' is missing\\)"),
        ({"certificate": {"identified": None}}, "damaged \\(certificate.identified is None\\)"),
        ({"conventions": []}, "damaged"),
        ({"counted": {"name": "C_counted"}}, "damaged \\('coefficients' is missing\\)"),
    ],
)
def test_damaged_files_are_named(tmp_path, written, change, problem):
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(written | change))
    with pytest.raises(UserError, match=problem):
        saved.load(path)


def test_a_law_that_certifies_nothing_is_not_taken_for_identified(tmp_path, written):
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({key: value for key, value in written.items() if key != "certificate"}))
    with pytest.raises(UserError, match=r"is no fit.json \(without certificate\)"):
        saved.load(path)
    path.write_text(json.dumps(written | {"certificate": {"identified": False}}))
    assert not saved.load(path).identified


def test_a_law_keeps_what_its_budgets_count(tmp_path, written, replicated):
    table = replicated.fit.table
    flops = table.budgets * (1 + 3 * (table.columns["n"] / 12e3) ** (-1 / 3))
    counted = counting.count("C_counted", table.columns["n"], table.columns["d"], flops)
    columns = dict(table.columns) | {"flops": flops}
    told = dataclasses.replace(table, columns=columns, counted=counted)
    other = dataclasses.replace(replicated, fit=dataclasses.replace(replicated.fit, table=told))
    (tmp_path / "fit.json").write_text(json.dumps(written | saved.law_of(other)))
    law = saved.load(tmp_path / "fit.json")
    assert law.largest_budget == pytest.approx(flops.max())
    here, there = (allocation.allocate(one, 1e14, 1.0) for one in (other, law))
    assert there.n == pytest.approx(here.n, rel=1e-9)
    assert there.ratio_interval == pytest.approx(here.ratio_interval, rel=1e-6)
    assert law.cost.training({"n": there.n}) * there.d == pytest.approx(1e14)
    assert there.d < 0.8 * allocation.allocate(replicated, 1e14, 1.0).d  # a token takes more than 6 N here
    line = law.outside({"n": 190e3, "d": 190e5})[-1]
    assert line.startswith("C = C_counted = ")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file; `windtunnel fit` writes one"):
        saved.load(tmp_path / "fit.json")
    with pytest.raises(UserError, match="cannot be read"):
        saved.load(tmp_path)
