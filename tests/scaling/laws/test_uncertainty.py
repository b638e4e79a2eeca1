import dataclasses

import numpy as np
import pytest

from scaling.laws import fit, resampling, solver, uncertainty
from scaling.laws.forms import CHINCHILLA
from scaling.laws.table import Table


def test_webb_weights_have_mean_0_and_variance_1():
    assert len(set(resampling.WEBB)) == 6
    assert resampling.WEBB.mean() == pytest.approx(0)
    assert (resampling.WEBB**2).mean() == pytest.approx(1)


def test_wild_bootstrap_keeps_the_design_and_moves_trunks_together(ladder):
    points = ladder(trunk_noise=3e-3, point_noise=2e-3)
    found = fit.fit(CHINCHILLA, points)
    replicated = uncertainty.bootstrap(found, replicates=100, method="wild", audit_share=0)
    assert replicated.method == "wild"
    _, cluster_N = np.unique(points.cluster, return_inverse=True)
    weight_RG = np.random.default_rng(0).choice(resampling.WEBB, (100, 6))
    noise_RN = weight_RG[:, cluster_N] * resampling.corrected_residuals(found, cluster_N)
    # Every replicate is the law fitted to every point's fitted loss, with its trunk's residuals times one Webb weight.
    r = 17
    again = Table(points.columns, found.predict(points.columns) * np.exp(noise_RN[r]), points.cluster, {})
    assert fit.fit(CHINCHILLA, again).params == pytest.approx(
        {name: values[r] for name, values in replicated.params.items()}, rel=1e-5
    )


def test_corrected_residuals_are_those_of_a_trunk_left_out(ladder):
    points = ladder(trunk_noise=1e-4, point_noise=1e-4)
    least_squares = 10.0  # a Huber threshold that no residual reaches
    found = fit.fit(CHINCHILLA, points, delta=least_squares)
    _, cluster_N = np.unique(points.cluster, return_inverse=True)
    corrected_N = resampling.corrected_residuals(found, cluster_N)
    for g in range(6):
        out = cluster_N == g
        rest = fit.fit(CHINCHILLA, points.select(~out), delta=least_squares)
        truly_N = np.log(points.loss[out] / rest.predict({k: v[out] for k, v in points.columns.items()}))
        np.testing.assert_allclose(corrected_N[out], truly_N, rtol=0.05, atol=2e-5)


def test_components_draw_errors_of_the_size_that_made_the_table(ladder):
    """Over many tables, replicates have the trunk and point variance that was planted, though residuals hide both."""
    rng, spread = np.random.default_rng(0), []
    for seed in range(60):
        found = fit.fit(CHINCHILLA, ladder(trunk_noise=4e-3, point_noise=2e-3, seed=seed), starts=16)
        _, cluster_N = np.unique(found.table.cluster, return_inverse=True)
        drawn = resampling.components(found, cluster_N, 50, rng)
        error_RN = drawn.data.log_loss - (np.log(found.table.loss / found.table.centre["loss"]) - found.residuals)
        trunk_RG = error_RN.reshape(50, 6, 4).mean(2)
        point = np.mean((error_RN.reshape(50, 6, 4) - trunk_RG[..., None]) ** 2) * 4 / 3
        spread.append((trunk_RG.var(1, ddof=1).mean() - point / 4, point, drawn.errors.var()))
        assert drawn.freedom == 3  # six trunks, of which E, A and alpha take three
    trunk, point, one_run = np.mean(spread, 0)
    assert np.sqrt(point) == pytest.approx(2e-3, rel=0.1)
    assert np.sqrt(trunk) == pytest.approx(4e-3, rel=0.2)
    assert one_run == pytest.approx(trunk + point, rel=0.05)


def test_points_on_their_own_leave_the_freedom_of_a_regression(ladder):
    points = ladder(point_noise=2e-3)
    alone = Table(points.columns, points.loss, np.arange(24), {})
    assert uncertainty.bootstrap(fit.fit(CHINCHILLA, alone), replicates=20, audit_share=0).freedom == 24 - 5


def test_few_clusters_are_called_indicative_and_widen_the_interval(ladder):
    found = fit.fit(CHINCHILLA, ladder(point_noise=2e-3))
    few = uncertainty.bootstrap(found, replicates=50, audit_share=0)
    assert (few.method, few.freedom) == ("components", 3)
    assert few.indicative
    assert few.label == "90% interval, indicative (6 clusters)"
    low, high = few.interval(np.linspace(0, 1, 10001))
    assert (low, high) == pytest.approx((0.0093, 0.9907), abs=2e-4)  # Student's t with 3 degrees of freedom: 2.353


def test_many_clusters_are_resampled_and_agree_with_the_published_errors(epoch):
    replicated = uncertainty.bootstrap(fit.fit(CHINCHILLA, epoch), replicates=600)
    assert replicated.method == "resample"
    assert not replicated.indicative
    assert replicated.audit == (30, 0)
    # Standard errors of 400 re-optimised replicates of the same 240 points by scipy.
    for name, error in {"E": 0.026, "alpha": 0.0155, "beta": 0.0212}.items():
        assert replicated.params[name].std() == pytest.approx(error, rel=0.2)
    low, high = replicated.param_intervals()["alpha"]
    assert low < 0.3473 < high


def test_replicates_that_stopped_early_are_noticed_and_fitted_again(ladder, monkeypatch):
    found = fit.fit(CHINCHILLA, ladder(trunk_noise=3e-3, point_noise=2e-3))
    right = uncertainty.bootstrap(found, replicates=40, audit_share=0.5)
    assert right.audit.missed == 0
    solve, calls = solver.solve, []

    def stop_early(form, data, theta_SP, delta):
        """The warm starts end 0.1% above their optimum; later fits are as they should be."""
        calls.append(len(theta_SP))
        theta_SP, value_S = solve(form, data, theta_SP, delta)
        return (theta_SP + 0.1, value_S * 1.001) if len(calls) == 1 else (theta_SP, value_S)

    monkeypatch.setattr(solver, "solve", stop_early)
    mended = uncertainty.bootstrap(found, replicates=40, audit_share=0.5)
    assert mended.audit == (20, 20)
    assert calls == [40, 20 * 16, 40 * 16]
    np.testing.assert_allclose(mended.params["alpha"], right.params["alpha"], rtol=1e-6)


def test_prediction_interval_holds_noise_on_top_of_the_law(ladder):
    points = ladder(point_noise=5e-3)
    replicated = uncertainty.bootstrap(fit.fit(CHINCHILLA, points), replicates=400, audit_share=0)
    at = {"n": np.array([47e3]), "d": np.array([2.5e6])}
    law, new = replicated.interval(replicated.predict(at)), replicated.prediction_interval(at)
    assert new.low[0] < law.low[0] < law.high[0] < new.high[0]
    # Around a law that is known, what is left is one point's noise, larger than residuals by what the fit took away.
    sure = dataclasses.replace(replicated, params={k: np.full(4000, v) for k, v in replicated.fit.params.items()})
    log_ratio = np.log(np.array(sure.prediction_interval(at)) / replicated.fit.predict(at))
    assert log_ratio.ravel() == pytest.approx(np.array([-2.353, 2.353]) * replicated.errors.std(), rel=0.05)
    assert replicated.errors.std() == pytest.approx(5e-3, rel=0.3)


@pytest.mark.slow
def test_coverage_on_simulated_studies(ladder, planted):
    """A nominal 90% interval on six trunks with trunk and point noise; per-point errors would cover far less."""
    a, covered, naive = planted["beta"] / (planted["alpha"] + planted["beta"]), [], []
    for seed in range(80):
        points = ladder(trunk_noise=3e-3, point_noise=2e-3, seed=seed)
        independent = Table(points.columns, points.loss, np.arange(len(points)).astype(str), {})
        for study, hits in ((points, covered), (independent, naive)):
            params = uncertainty.bootstrap(fit.fit(CHINCHILLA, study), replicates=199, audit_share=0)
            low, high = params.interval(params.params["beta"] / (params.params["alpha"] + params.params["beta"]))
            hits.append(low <= a <= high)
    assert 0.8 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < np.mean(covered)
