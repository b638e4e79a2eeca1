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


def test_a_rest_that_cannot_be_fitted_says_so(ladder):
    with pytest.raises(UserError, match="holding out the largest N: of what is left, all points have N"):
        holdout(CHINCHILLA, ladder(sizes=(12e3, 190e3, 12e3)))
