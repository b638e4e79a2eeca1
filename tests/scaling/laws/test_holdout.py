import dataclasses

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.laws import counting
from scaling.laws.forms import CHINCHILLA
from scaling.laws.holdout import Holdout, all_holdouts, error_against_compute, holdout
from scaling.laws.table import Table


@pytest.mark.parametrize(("by", "column"), [("largest_n", "n"), ("largest_d", "d"), ("largest_c", "flops")])
def test_an_exact_law_predicts_what_was_left_out(ladder, by, column):
    points = ladder()
    held = holdout(CHINCHILLA, points, by, replicates=50)
    assert held.heldout.columns[column].min() > held.fit.table.columns[column].max()
    assert len(held.heldout) + len(held.fit.table) == len(points)
    assert held.mean_error < 1e-6


def test_the_largest_budget_is_counted_like_every_other(ladder):
    """By 6 N D whatever a column of FLOPs says, unless that is what budgets count."""
    points = ladder(point_noise=1e-3)
    odd = dataclasses.replace(points, columns=points.columns | {"flops": points.budgets[::-1]})  # a stranger's column
    held = holdout(CHINCHILLA, odd, "largest_c", replicates=20)
    assert held.heldout.columns["n"].tolist() == [190e3]
    asked = dataclasses.replace(odd, counted=counting.Counted("flops", (0.0, 0.0, 0.0), 12e3))
    assert holdout(CHINCHILLA, asked, "largest_c", replicates=20).heldout.columns["n"].tolist() == [24e3]


def test_what_is_held_out_does_not_touch_the_prediction(ladder):
    points = ladder(point_noise=2e-3)
    largest = points.columns["n"] == points.columns["n"].max()
    worse = Table(points.columns, np.where(largest, 1.1 * points.loss, points.loss), points.cluster, {})
    honest, shifted = (holdout(CHINCHILLA, table, replicates=50) for table in (points, worse))
    np.testing.assert_array_equal(honest.predicted, shifted.predicted)
    np.testing.assert_array_equal(honest.rows, largest)
    assert shifted.relative_error == pytest.approx((1 + honest.relative_error) / 1.1 - 1)
    assert honest.covered.mean() >= 0.75
    assert not shifted.covered.any()


def test_few_trunks_left_are_called_indicative_though_the_whole_table_has_enough(ladder):
    sizes = (12e3, 12e3, 24e3, 24e3, 47e3, 47e3, 95e3, 190e3)
    points = ladder(sizes=sizes, point_noise=2e-3)
    held = holdout(CHINCHILLA, points, replicates=50)
    assert len(set(points.cluster)) == 8
    assert held.bootstrap.caveat == ", indicative (7 clusters)"
    more = holdout(CHINCHILLA, ladder(sizes=(*sizes, 24e3), point_noise=2e-3), replicates=50)
    assert more.bootstrap.caveat == ""


@pytest.mark.slow
def test_prediction_intervals_cover_what_was_left_out_and_are_no_wider_than_that_takes(ladder, planted):
    """A nominal 90% interval for the largest trunk of eight, from the other seven, over simulated studies.

    Its width is compared with the least possible: 2 x 1.645 standard deviations of one point around a known law.
    """
    trunk, point = 2e-3, 2e-3
    covered, width = [], []
    for seed in range(100):
        sizes = (12e3, 12e3, 24e3, 24e3, 47e3, 47e3, 95e3, 190e3)
        points = ladder(sizes=sizes, trunk_noise=trunk, point_noise=point, seed=seed)
        held = holdout(CHINCHILLA, points, replicates=199, seed=seed)
        covered.append(held.covered.mean())
        width.append(np.log(held.interval.high / held.interval.low).mean())
    least = 2 * 1.645 * np.hypot(trunk, point)
    assert 0.8 <= np.mean(covered) <= 0.98
    assert np.median(width) < 3.4 * least  # the law reaches beyond its sizes, and seven trunks make Student's t wide


def test_a_rest_that_cannot_be_fitted_says_so(ladder):
    with pytest.raises(UserError, match="holding out the largest N: of what is left, all points have N"):
        holdout(CHINCHILLA, ladder(sizes=(12e3, 190e3, 12e3)))


def test_all_checks_are_those_made_one_by_one(ladder):
    points = ladder(point_noise=2e-3)
    checks = all_holdouts(CHINCHILLA, points, replicates=50)
    assert list(checks) == ["largest_n", "largest_d", "largest_c"]
    np.testing.assert_array_equal(checks["largest_d"].predicted, holdout(CHINCHILLA, points, "largest_d").predicted)
    assert [len(check.heldout) for check in checks.values()] == [4, 1, 1]


def test_a_check_that_cannot_be_made_is_a_sentence_beside_the_others(ladder):
    checks = all_holdouts(CHINCHILLA, ladder(sizes=(12e3, 190e3, 12e3), point_noise=1e-3), replicates=50)
    assert "holding out the largest N: of what is left, all points have N" in checks["largest_n"]
    assert isinstance(checks["largest_c"], Holdout)


def test_more_compute_predicts_the_largest_trunk_better(ladder):
    """Over eight seeds: the error falls, the cheapest fit spends what its points cost, the dearest all that is left."""
    first, last = [], []
    for seed in range(8):
        sizes = tuple(np.geomspace(12e3, 390e3, 9))
        points = ladder(sizes=sizes, point_noise=3e-3, seed=seed)
        found = error_against_compute(CHINCHILLA, points, "largest_n", cuts=4, replicates=20, seed=seed)
        rest = points.columns["n"] < 390e3
        for row in found.rows:
            fitted = rest & (points.budgets <= row.cut)
            assert row.spent == pytest.approx(points.budgets[fitted].sum())
            np.testing.assert_array_equal(row.check.fit.table.loss, points.loss[fitted])
        assert found.rows[-1].spent == pytest.approx(points.budgets[rest].sum())
        assert np.all(np.diff([row.spent for row in found.rows]) > 0)
        first.append(found.rows[0].check.mean_error)
        last.append(found.rows[-1].check.mean_error)
    assert np.mean(last) < 0.6 * np.mean(first)


def test_trunks_of_predicted_runs_are_left_out_whole(ladder):
    points = ladder(sizes=(12e3, 24e3, 47e3, 95e3, 190e3, 190e3), point_noise=1e-3)
    found = error_against_compute(CHINCHILLA, points, "largest_c", cuts=3, replicates=20)
    assert len(found.rows[0].check.heldout) == 2  # both seeds at the largest N and D
    assert not set(found.rows[-1].check.fit.table.cluster) & {"4", "5"}


def test_cuts_that_leave_the_law_open_are_left_out(ladder):
    """The six cheapest points of this table are one size and a half: not enough for two exponents."""
    points = ladder(sizes=(12e3, 24e3, 47e3, 95e3, 190e3), point_noise=1e-4)
    found = error_against_compute(CHINCHILLA, points, "largest_n", cuts=16, replicates=20)
    assert 1 < len(found.rows) < 14
    assert all(row.check.fit.certificate.identified for row in found.rows)
    with pytest.raises(UserError, match="predicting the largest N from cheaper runs: all points have N"):
        error_against_compute(CHINCHILLA, ladder(sizes=(12e3, 12e3, 190e3)), "largest_n", replicates=20)
    one = Table(points.columns, points.loss, np.full(len(points), "one"), {})
    with pytest.raises(UserError, match="every point shares a cluster with them"):
        error_against_compute(CHINCHILLA, one, replicates=20)


def test_a_shared_trunk_is_paid_for_once(ladder):
    points = ladder(point_noise=1e-3)
    stable = 0.9 * points.columns["d"]
    told = Table(points.columns | {"d_stable": stable}, points.loss, points.cluster, {})
    row = error_against_compute(CHINCHILLA, told, "largest_n", cuts=1, replicates=20).rows[0]
    n = np.array([12e3, 24e3, 47e3, 95e3, 24e3])
    assert row.spent == pytest.approx(np.sum(6 * n**2 * (0.9 * 80 + 0.1 * (20 + 40 + 60 + 80))))


def test_what_an_accuracy_takes_is_read_from_the_right(ladder):
    """A cheap fit that happens to be right does not count when a dearer one is wrong."""
    found = error_against_compute(CHINCHILLA, ladder(point_noise=1e-3), "largest_n", cuts=3, replicates=20)
    (row, *_) = found.rows
    rows = []
    for spent, error in ((1.0, 0.01), (2.0, 0.05), (3.0, 0.02), (4.0, 0.01)):
        check = dataclasses.replace(row.check, relative_error=np.array([error, -error]))
        rows.append(dataclasses.replace(row, spent=spent, check=check))
    read = dataclasses.replace(found, rows=tuple(rows)).spent_for
    assert [read(error) for error in (0.06, 0.03, 0.01, 0.001)] == [1.0, 3.0, 4.0, None]
