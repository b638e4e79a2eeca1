import dataclasses

import numpy as np
import pytest
from scipy import optimize, stats

from scaling.errors import UserError
from scaling.laws import fit, profile, uncertainty
from scaling.laws.forms import CHINCHILLA


@pytest.fixture(scope="module")
def least_squares(ladder) -> fit.Fit:
    """Sixty sizes of four points, each its own cluster and 0.3% off, fitted by least squares on log loss."""
    points = ladder(sizes=tuple(np.geomspace(1e4, 1e6, 60)))
    noise = np.random.default_rng(0).choice([-3e-3, 3e-3], 240)  # of one size, so that no variance has to be estimated
    points = dataclasses.replace(points, loss=points.loss * np.exp(noise), cluster=np.arange(240).astype(str))
    return fit.fit(CHINCHILLA, points, delta=10.0)


def test_gaussian_errors_give_the_classical_profile(least_squares):
    """Sum of squares over 2: the interval ends where it rises by t^2 s^2 / 2, found here by scipy for every alpha."""
    found = profile.profile(least_squares, "alpha")
    table, best = least_squares.table, least_squares.params
    variance = 2 * least_squares.objective / 235
    threshold = stats.t.ppf(0.95, 235) ** 2 / 2 * variance
    assert found.ratio == pytest.approx(variance, rel=0.1)

    def rise(alpha: float) -> float:
        def misses(free: np.ndarray) -> np.ndarray:
            params = dict(zip(("E", "A", "B"), np.exp(free[:3]), strict=True)) | {"alpha": alpha, "beta": free[3]}
            return np.log(CHINCHILLA.predict(params, table.columns) / table.loss)

        start = [*np.log([best["E"], best["A"], best["B"]]), best["beta"]]
        return (
            optimize.least_squares(misses, start, x_scale="jac", xtol=1e-14, ftol=1e-14).cost - least_squares.objective
        )

    for value, height in zip(found.values[::5], found.rise[::5], strict=True):
        assert height == pytest.approx(rise(value), abs=1e-3 * threshold)
    classical = np.array([optimize.brentq(lambda a: rise(a) - threshold, *ends) for ends in
                          ((found.values[0], best["alpha"]), (best["alpha"], found.values[-1]))])  # fmt: skip
    np.testing.assert_allclose(np.subtract(found.interval, best["alpha"]), classical - best["alpha"], rtol=0.05)


def test_the_profile_is_zero_at_the_optimum_alone(least_squares):
    found = profile.profile(least_squares, "beta", points=9)
    lowest = np.argmin(found.rise)
    assert found.values[lowest] == found.estimate == least_squares.params["beta"]
    assert found.rise[lowest] == 0
    assert np.all(np.diff(found.rise[: lowest + 1]) < 0)
    assert np.all(np.diff(found.rise[lowest:]) > 0)
    assert found.params["beta"] == pytest.approx(found.values)
    assert np.corrcoef(found.values, np.log(found.params["B"]))[0, 1] > 0.999  # the ridge is followed


def test_a_coefficient_is_profiled_in_its_log(least_squares):
    found = profile.profile(least_squares, "A", points=9)
    low, high = found.interval
    assert low < least_squares.params["A"] < high
    assert np.diff(np.log(found.values)).max() < 3 * np.diff(np.log(found.values)).min()
    alpha = profile.profile(least_squares, "alpha", points=9)
    slope = np.polyfit(alpha.values, np.log(alpha.params["A"]), 1)[0]
    assert np.log(high / low) == pytest.approx(slope * np.ptp(alpha.interval), rel=0.1)  # the ridge, seen from its side


def test_points_that_move_together_widen_it(ladder):
    points = ladder(sizes=tuple(np.geomspace(1e4, 1e6, 20)), trunk_noise=3e-3, point_noise=1e-3)
    alone = dataclasses.replace(points, cluster=np.arange(len(points)).astype(str))
    trunks, naive = (profile.profile(fit.fit(CHINCHILLA, t, delta=10.0), "alpha", points=7) for t in (points, alone))
    np.testing.assert_allclose(trunks.fit.params["alpha"], naive.fit.params["alpha"])
    assert trunks.ratio > 2 * naive.ratio
    assert np.ptp(trunks.interval) > 1.4 * np.ptp(naive.interval)


def test_the_exponent_of_allocation_is_the_same_law(ladder):
    points = ladder(point_noise=1e-3)
    plain, by_exponent = fit.fit(CHINCHILLA, points), fit.fit(profile.BY_EXPONENT, points)
    assert by_exponent.objective == pytest.approx(plain.objective, rel=1e-9)
    alpha, beta = plain.params["alpha"], plain.params["beta"]
    assert by_exponent.params["a"] == pytest.approx(beta / (alpha + beta), rel=1e-6)
    assert by_exponent.params["s"] == pytest.approx(alpha + beta, rel=1e-6)


def test_on_chinchillas_points_it_agrees_with_the_bootstrap(epoch):
    fitted = fit.fit(profile.BY_EXPONENT, epoch)
    found = profile.profile(fitted, "a", points=11)
    replicated = uncertainty.bootstrap(fitted, replicates=400, audit_share=0)
    low, high = replicated.interval(replicated.params["a"])
    assert found.interval.low == pytest.approx(low, abs=0.2 * (high - low))
    assert found.interval.high == pytest.approx(high, abs=0.2 * (high - low))


def test_an_end_that_the_data_leave_open_is_the_bound(ladder, planted):
    """With much noise and little irreducible loss, one of none fits as well."""
    noisy = fit.fit(CHINCHILLA, ladder({**planted, "E": 0.3}, point_noise=0.03, seed=3))
    found = profile.profile(noisy, "E", points=7)
    assert found.interval.low == 0
    assert noisy.params["E"] < found.interval.high < noisy.table.loss.min()


def test_what_cannot_be_profiled_says_so(least_squares):
    with pytest.raises(UserError, match="parameter 'gamma': chinchilla has E, A, B, alpha, beta"):
        profile.profile(least_squares, "gamma")
    stuck = dataclasses.replace(least_squares.certificate, at_bounds=("E",))
    with pytest.raises(UserError, match="E is held at"):
        profile.profile(dataclasses.replace(least_squares, certificate=stuck), "E")
    worse = dataclasses.replace(least_squares, objective=2 * least_squares.objective)
    with pytest.raises(UserError, match="of the fit: fit again with more starts"):
        profile.profile(worse, "alpha")


@pytest.mark.slow
def test_its_intervals_cover_with_few_and_with_many_trunks(ladder, planted):
    """Nominal 90% intervals of a: held at the truth, the objective rises by less than the threshold."""
    truth = planted["beta"] / (planted["alpha"] + planted["beta"])
    for sizes in ((12e3, 24e3, 47e3, 95e3, 190e3, 24e3), tuple(np.geomspace(1e4, 1e6, 30))):
        covered = []
        for seed in range(30):
            points = ladder(sizes=sizes, trunk_noise=2e-3, point_noise=2e-3, seed=seed)
            fitted = fit.fit(profile.BY_EXPONENT, points)
            low, high = profile.profile(fitted, "a", points=6).interval
            covered.append(low < truth < high)
        assert np.mean(covered) >= 0.84  # with six trunks it is wider than it need be
