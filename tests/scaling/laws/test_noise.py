import numpy as np
import pytest
from scipy import stats

from scaling.laws import fit, noise
from scaling.laws.forms import CHINCHILLA
from scaling.laws.table import Table

REPEATED = (24e3, 24e3, 24e3, 95e3, 95e3, 12e3, 190e3, 380e3)


def test_without_repeats_there_is_no_floor(ladder):
    points = ladder(sizes=(12e3, 24e3, 47e3), point_noise=1e-3)
    assert noise.noise_floor(points) is None
    assert noise.lack_of_fit(fit.fit(CHINCHILLA, points)) is None


def test_copies_of_a_run_are_no_repeats(ladder):
    assert noise.noise_floor(ladder()) is None  # the sixth trunk repeats the second without noise


def test_points_of_one_cluster_are_no_repeats_of_each_other(ladder):
    points = ladder(point_noise=1e-3)
    assert noise.noise_floor(Table(points.columns, points.loss, np.full(len(points), "one"), {})) is None


def test_places_agree_to_one_percent(ladder):
    points = ladder(point_noise=1e-3)
    second = points.cluster == "5"
    for shift, found in ((1.008, 4), (1.02, None)):
        columns = points.columns | {"n": points.columns["n"] * np.where(second, shift, 1.0)}
        floor = noise.noise_floor(Table(columns, points.loss, points.cluster, {}))
        assert (floor and floor.places) == found


def test_independent_pairs_give_the_textbook_standard_deviation():
    """Pooled: squares of differences over 2 per pair, as many degrees of freedom as pairs, chi-square interval."""
    rng = np.random.default_rng(0)
    n = np.repeat(np.geomspace(1e6, 1e9, 12), 2)
    loss = 3 * np.exp(rng.normal(0, 2e-3, 24))
    points = Table({"n": n, "d": 20 * n, "flops": 120 * n**2}, loss, np.arange(24).astype(str), {})
    floor = noise.noise_floor(points)
    assert (floor.points, floor.places, floor.trunks) == (24, 12, 24)
    variance = np.mean(np.square(np.diff(np.log(loss).reshape(12, 2)))) / 2
    assert floor.spread.total == pytest.approx(np.sqrt(variance))
    assert floor.spread.freedom == pytest.approx(12)
    assert floor.spread.trunk is None
    low, high = np.sqrt(12 * variance / stats.chi2.ppf([0.95, 0.05], 12))
    assert tuple(floor.spread.interval()) == pytest.approx((low, high))


def test_trunk_and_point_noise_are_told_apart(ladder):
    """Both variances unbiased over simulated studies, and their sum's interval covers as it says."""
    trunk, point, covered, found = 2e-3, 1e-3, [], []
    for seed in range(300):
        floor = noise.noise_floor(ladder(sizes=REPEATED, trunk_noise=trunk, point_noise=point, seed=seed))
        low, high = floor.spread.interval()
        covered.append(low < np.hypot(trunk, point) < high)
        found.append([floor.spread.total**2, floor.spread.point**2, floor.spread.freedom])
    total, points, freedom = np.mean(found, 0)
    assert total == pytest.approx(trunk**2 + point**2, rel=0.1)
    assert points == pytest.approx(point**2, rel=0.1)
    assert 3 < freedom < 8  # three trunks more than sizes, each of four points that move together
    assert 0.82 < np.mean(covered) < 0.98


def test_a_trunk_whose_points_move_as_one_counts_once(ladder):
    same = noise.noise_floor(ladder(trunk_noise=2e-3, point_noise=1e-6, seed=1))
    assert same.spread.freedom == pytest.approx(1, abs=0.01)
    assert same.spread.point < 0.01 * same.spread.trunk


def test_components_allow_for_what_a_design_takes_up():
    """Ten trunks of four points and a design of five columns that differ by trunk, as a law's Jacobian does."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(10), 4)
    found = []
    for _ in range(400):
        design = rng.normal(size=(10, 5))[cluster] + 0.3 * rng.normal(size=(40, 5))
        values = design @ rng.normal(size=5) + rng.normal(0, 2, 10)[cluster] + rng.normal(0, 1, 40)
        spread = noise.spread(values, cluster, design)
        found.append([spread.trunk**2, spread.point**2, spread.total**2])
    assert np.mean(found, 0) == pytest.approx([4, 1, 5], rel=0.08)


def test_independent_points_give_the_textbook_test_of_lack_of_fit():
    """F = ((SS_res - SS_pure) / (df_res - df_pure)) / (SS_pure / df_pure), by least squares in logs."""
    rng = np.random.default_rng(0)
    n, d = (np.repeat(g.ravel(), 2) for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4)))
    law = {"E": 1.8, "A": 400.0, "B": 2000.0, "alpha": 0.35, "beta": 0.36}
    noise_N = rng.normal(0, 3e-3, 40) + 4e-3 * (np.isclose(n, 1e8) & (d < 1e10))  # and something that no law follows
    loss = CHINCHILLA.predict(law, {"n": n, "d": d}) * np.exp(noise_N)
    points = Table({"n": n, "d": d, "flops": 6 * n * d}, loss, np.arange(40).astype(str), {})
    fitted = fit.fit(CHINCHILLA, points, delta=1.0)  # least squares
    pairs = np.log(loss).reshape(20, 2)
    pure = float(np.sum((pairs - pairs.mean(1, keepdims=True)) ** 2))
    f = ((fitted.residuals @ fitted.residuals - pure) / (35 - 20)) / (pure / 20)
    found = noise.lack_of_fit(fitted)
    assert (found.misses.freedom, found.floor.spread.freedom) == (pytest.approx(15), pytest.approx(20))
    assert found.ratio**2 == pytest.approx(f, rel=1e-6)
    low, high = found.interval()
    assert (low, high) == pytest.approx(tuple(np.sqrt(f / stats.f.ppf([0.95, 0.05], 15, 20))), rel=1e-6)


def test_a_right_law_is_found_to_miss_as_often_as_the_level_says(ladder):
    """Were the differences between repeats in the law's misses too, hardly any ratio would stand out."""
    low, high = [], []
    for seed in range(200):
        points = ladder(sizes=REPEATED, trunk_noise=2e-3, point_noise=1e-3, seed=seed)
        ends = noise.lack_of_fit(fit.fit(CHINCHILLA, points, delta=1.0, starts=8)).interval()
        low.append(ends.low > 1)
        high.append(ends.high < 1)
    assert np.mean(low) == pytest.approx(0.05, abs=0.05)
    assert np.mean(high) == pytest.approx(0.05, abs=0.05)


def test_a_law_that_misses_says_by_how_much(ladder):
    points = ladder(sizes=REPEATED, point_noise=1e-3)
    right = noise.lack_of_fit(fit.fit(CHINCHILLA, points))
    low, high = right.interval()
    assert low < 1 < high
    assert "no more than noise" in right.words()
    bump = np.where(points.columns["n"] == 95e3, 1.05, 1.0)  # both trunks of a size, which no law can follow
    wrong = noise.lack_of_fit(fit.fit(CHINCHILLA, Table(points.columns, points.loss * bump, points.cluster, {})))
    assert wrong.floor.spread.total == pytest.approx(right.floor.spread.total)
    assert wrong.interval().low > 3
    assert "its form misses something" in wrong.words()
    assert f"{wrong.ratio:.2g} times the noise floor" in wrong.words()
    assert "20 points of 5 trunks repeat 8 (N, D)" in right.floor.words()
