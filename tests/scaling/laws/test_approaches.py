import dataclasses
import json

import numpy as np
import pytest

from experiments.simulations.isoflop_bias import Grid
from scaling.laws import approaches, fit, isoflop, table, uncertainty
from scaling.laws.forms import CHINCHILLA, COMPUTE

LAW = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.40, "beta": 0.33}
A = LAW["beta"] / (LAW["alpha"] + LAW["beta"])
NAMES = [approaches.ENVELOPE, *approaches.ISOFLOP.values(), approaches.PARAMETRIC]


def replicated(points: table.Table) -> uncertainty.Bootstrap:
    return uncertainty.bootstrap(fit.fit(CHINCHILLA, points, starts=32), replicates=100)


@pytest.fixture(scope="module")
def grid() -> tuple[table.Table, uncertainty.Bootstrap]:
    """Five budgets, the same sizes at neighbouring ones, 0.1% noise, a cluster per size."""
    rng = np.random.default_rng(0)
    sizes, budgets = np.geomspace(3e7, 6e9, 24), np.geomspace(1e18, 1e21, 7)
    n, flops = (axis.ravel() for axis in np.meshgrid(sizes, budgets))
    assert CHINCHILLA.optimum is not None
    near = np.abs(np.log(n / CHINCHILLA.optimum(LAW, flops)["n"])) < np.log(6)
    n, flops = n[near], flops[near]
    columns = {"n": n, "d": flops / 6 / n, "flops": flops}
    loss = CHINCHILLA.predict(LAW, columns) * np.exp(rng.normal(0, 1e-3, len(n)))
    points = table.Table(columns, loss, n.astype(str), {})
    return points, replicated(points)


def test_all_approaches_agree_on_a_planted_law(grid):
    points, bootstrap = grid
    rows = approaches.three_approaches(points, bootstrap, (1e20, 1e23), replicates=200)
    assert [row.name for row in rows] == NAMES
    for row in rows:
        assert row.a == pytest.approx(A, abs=0.06 if row.name == approaches.ENVELOPE else 0.02)
        assert row.a_interval.low < row.a < row.a_interval.high
        assert row.b == pytest.approx(1 - row.a)
        assert row.b_interval == pytest.approx((1 - row.a_interval.high, 1 - row.a_interval.low))
        inside, beyond = row.at
        assert inside.n == pytest.approx(float(CHINCHILLA.optimum(LAW, 1e20)["n"]), rel=0.15)
        for one in row.at:
            assert 6 * one.n * one.d == pytest.approx(one.flops)
            assert one.ratio == pytest.approx(one.d / one.n)
            assert one.ratio_interval.low < one.ratio < one.ratio_interval.high
        assert inside.extrapolation == 0
        assert beyond.extrapolation > 1.9
        best = float(CHINCHILLA.predict(LAW, CHINCHILLA.optimum(LAW, 1e20)))
        assert inside.loss == pytest.approx(best, rel=0.01)
        assert (beyond.loss is None) == (row.name != approaches.PARAMETRIC)


def test_rows_serialise(grid):
    rows = approaches.three_approaches(*grid, (1e20,), replicates=50)
    data = json.loads(json.dumps([dataclasses.asdict(row) for row in rows], allow_nan=False))
    assert data[1]["a"] == rows[1].a
    assert data[1]["at"][0]["n_interval"] == list(rows[1].at[0].n_interval)


def test_the_known_bias_of_the_parabola_is_in_its_row(grid):
    points, bootstrap = grid
    rows = approaches.three_approaches(points, bootstrap, (), replicates=50)
    (line,) = [problem for problem in rows[1].problems if problem.startswith("known bias")]
    cuts = isoflop.fit(points, replicates=1).cuts
    (expected,) = [
        one for one in isoflop.parabola_bias(bootstrap.fit.params, points, cuts) if one.estimator == "parabola"
    ]
    assert f"{expected.n_at:+.1%} at C = {points.budgets.max():.3g}" in line
    assert f"a off by {expected.a:+.4f}" in line
    assert max(expected.n) > 0.01  # alpha > beta: N_opt too large


def test_a_ladder_without_overlap_gets_sentences_and_no_numbers(ladder):
    points = ladder(point_noise=1e-3)
    rows = approaches.three_approaches(points, replicated(points), (1e12,), replicates=50)
    assert [row.name for row in rows] == NAMES
    for row in rows[:3]:
        assert (row.a, row.a_interval, row.b, row.at, row.budgets) == (None, None, None, (), None)
        assert len(row.problems) == 1
        assert "6 N D" in row.problems[0]
    assert rows[3].at[0].n > 0
    assert any("indicative" in problem for problem in rows[3].problems)


def test_an_optimum_without_a_closed_form_is_searched_for(grid):
    points, bootstrap = grid
    silent = dataclasses.replace(CHINCHILLA, optimum=None)
    other = dataclasses.replace(bootstrap, fit=dataclasses.replace(bootstrap.fit, form=silent))
    searched, closed = (approaches.three_approaches(points, b, (1e20,), replicates=50) for b in (other, bootstrap))
    assert searched[1].problems == closed[1].problems
    assert searched[3].a == pytest.approx(closed[3].a, rel=1e-5)
    assert searched[3].at[0].n_interval == pytest.approx(closed[3].at[0].n_interval, rel=1e-5)


def test_a_form_of_other_columns_leaves_the_first_two(grid):
    points, bootstrap = grid
    other = dataclasses.replace(bootstrap, fit=dataclasses.replace(bootstrap.fit, form=COMPUTE))
    rows = approaches.three_approaches(points, other, (1e20,), replicates=50)
    assert rows[1].a == pytest.approx(A, abs=0.03)
    assert rows[3].a is None
    assert "spending needs n and d" in rows[3].problems[0]


def test_slices_that_miss_the_optimum_are_named_and_too_few_give_no_line():
    points = Grid(3.0, drift=60.0).table(LAW)
    rows = approaches.three_approaches(points, replicated(points), (1e20,), replicates=50)
    for row in rows[1:3]:
        assert row.a is None
        assert "a line needs three" in row.problems[0]
