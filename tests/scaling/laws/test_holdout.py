import numpy as np
import pytest

from scaling.errors import UserError
from scaling.laws.forms import CHINCHILLA
from scaling.laws.holdout import holdout
from scaling.laws.table import Table


@pytest.mark.parametrize(("by", "column"), [("largest_n", "n"), ("largest_d", "d"), ("largest_c", "flops")])
def test_an_exact_law_predicts_what_was_left_out(ladder, by, column):
    points = ladder()
    held = holdout(CHINCHILLA, points, by, replicates=50)
    assert held.heldout.columns[column].min() > held.fit.table.columns[column].max()
    assert len(held.heldout) + len(held.fit.table) == len(points)
    assert held.mean_error < 1e-6


def test_what_is_held_out_does_not_touch_the_prediction(ladder):
    points = ladder(point_noise=2e-3)
    largest = points.columns["n"] == points.columns["n"].max()
    worse = Table(points.columns, np.where(largest, 1.1 * points.loss, points.loss), points.cluster, {})
    honest, shifted = (holdout(CHINCHILLA, table, replicates=50) for table in (points, worse))
    np.testing.assert_array_equal(honest.predicted, shifted.predicted)
    np.testing.assert_array_equal(honest.rows, largest)
    assert shifted.relative_error == pytest.approx((1 + honest.relative_error) / 1.1 - 1)
    assert honest.covered.all()
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
