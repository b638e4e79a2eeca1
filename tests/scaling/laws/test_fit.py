import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.laws import certify, fit, holdout, published, resampling, solver, uncertainty
from scaling.laws.forms import CHINCHILLA
from scaling.laws.table import Table


def test_epoch_table_reaches_the_true_minimum(epoch):
    found = fit.fit(CHINCHILLA, epoch)
    assert len(epoch) == 240
    expected = {"E": 1.817218, "A": 477.826, "B": 2143.417, "alpha": 0.347310, "beta": 0.367172}
    assert found.params == pytest.approx(expected, rel=3e-6)
    assert found.objective == pytest.approx(1.0182740178e-3, rel=1e-10)
    evidence = found.certificate
    assert evidence.identified
    assert not evidence.findings
    assert evidence.gradient_norm < 1e-10
    assert min(evidence.hessian_eigenvalues) > 0
    assert evidence.share_at_optimum > 0.8
    # The published correction is not the minimum of its own objective.
    quoted = CHINCHILLA.predict(published.BESIROGLU.params, epoch.columns)
    r = np.log(quoted / epoch.loss)
    huber = np.where(np.abs(r) < 1e-3, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4)).sum()
    assert huber > 1.0003 * found.objective


def test_all_245_points(real_table):
    found = fit.fit(CHINCHILLA, real_table("chinchilla_svg_extracted.csv"))
    expected = {"E": 1.89133850, "A": 495.7260196, "B": 12845.6134, "alpha": 0.3493128951, "beta": 0.4530492960}
    assert found.params == pytest.approx(expected, rel=1e-6)
    assert found.objective == pytest.approx(0.001826010523069331, rel=1e-9)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("after", {"E": 2.0747837, "A": 226.132793, "B": 271661.04, "alpha": 0.30036057, "beta": 0.58016729}),
        ("before", {"E": 2.1756303, "A": 287.332033, "B": 2419960.7, "alpha": 0.31176121, "beta": 0.67988928}),
    ],
)
def test_gemstones(real_table, when, expected):
    assert fit.fit(CHINCHILLA, real_table(f"gemstones_{when}_cooldown.jsonl")).params == pytest.approx(
        expected, rel=1e-6
    )


OLMO = {"n": "run~^([0-9.]+[MB])", "loss": "eval/pile-validation/CrossEntropyLoss"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "columns", "where"),
    [
        ("chinchilla_svg_extracted.csv", {}, "loss < 3.44"),
        ("chinchilla_svg_extracted.csv", {}, ""),
        ("gemstones_after_cooldown.jsonl", {}, ""),
        ("gemstones_before_cooldown.jsonl", {}, ""),
        ("olmo_ladder_final_losses.csv", OLMO, "run.str.contains('xC')"),
    ],
)
def test_every_seed_finds_the_same_optimum(real_table, name, columns, where):
    points = real_table(name, columns=columns, where=where)
    found = np.array([fit.fit(CHINCHILLA, points, seed=seed).objective for seed in range(100)])
    assert found.max() <= found.min() * (1 + certify.SAME_OPTIMUM)


@pytest.mark.slow
def test_most_of_4500_starts_reach_the_optimum(epoch):
    found = fit.fit(CHINCHILLA, epoch, starts=4500)
    assert found.objective == pytest.approx(1.0182740178e-3, rel=1e-10)
    assert found.certificate.share_at_optimum >= 0.93


@pytest.mark.parametrize(("loss", "error"), [("c4_en", 0.0219), ("pile", 0.0377), ("wikitext_103", 0.0366)])
def test_the_olmo_ladder_predicts_its_largest_size(real_table, loss, error):
    columns = OLMO | {"loss": f"eval/{loss}-validation/CrossEntropyLoss"}
    points = real_table("olmo_ladder_final_losses.csv", columns=columns, where="run.str.contains('xC')")
    held = holdout.holdout(CHINCHILLA, points, replicates=100)
    assert set(held.heldout.columns["n"]) == {3e9}
    assert held.mean_error == pytest.approx(error, abs=2e-4)


@settings(max_examples=20, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "E": st.floats(0.5, 2.5),
            "A": st.floats(5, 200),
            "B": st.floats(20, 2000),
            "alpha": st.floats(0.2, 0.7),
            "beta": st.floats(0.2, 0.7),
        }
    ),
    st.sampled_from([(12e3, 24e3, 47e3, 95e3, 190e3), (1e7, 4e7, 3e8), (1e6, 1e7, 1e8, 1e9, 1e9)]),
    st.integers(0, 10**6),
)
def test_planted_laws_are_recovered(ladder, law, sizes, seed):
    exact = fit.fit(CHINCHILLA, ladder(law, sizes=sizes), seed=seed)
    assert exact.params == pytest.approx(law, rel=1e-3)
    # With noise the fit is at least as good as the truth by the objective it minimises, and predicts closely.
    noisy = ladder(law, sizes=sizes, point_noise=2e-3, trunk_noise=2e-3, seed=seed)
    found = fit.fit(CHINCHILLA, noisy, seed=seed)
    r = np.log(CHINCHILLA.predict(law, noisy.columns) / noisy.loss)
    assert found.objective <= np.where(np.abs(r) < 1e-3, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4)).sum()
    assert found.predict(noisy.columns) == pytest.approx(CHINCHILLA.predict(law, noisy.columns), rel=1.2e-2)


def test_derivatives_are_those_of_the_objective(epoch):
    """The hand-assembled gradient and Hessian against automatic differentiation of the plain objective."""
    data = fit.as_points(CHINCHILLA, epoch, np.linspace(0.5, 2, len(epoch)))
    theta_P = CHINCHILLA.coordinates({"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.33, "beta": 0.36}, epoch.centre)

    def objective(theta):
        log_terms = [
            theta[0] + 0 * data.log_x["n"],
            theta[1] - theta[3] * (data.log_x["n"] - data.origin["n"]),
            theta[2] - theta[4] * (data.log_x["d"] - data.origin["d"]),
        ]
        r = jax.nn.logsumexp(jnp.stack(log_terms), axis=0) - data.log_loss
        inside = jnp.abs(r) <= 0.01
        return jnp.sum(data.weight * jnp.where(inside, r**2 / 2, 0.01 * (jnp.abs(r) - 0.005)))

    found = solver.diagnose(CHINCHILLA, data, theta_P, 0.01)
    with jax.enable_x64(True):
        gradient, hessian = jax.jit(jax.grad(objective))(theta_P), jax.jit(jax.hessian(objective))(theta_P)
    np.testing.assert_allclose(found["gradient"], gradient, rtol=1e-10)
    np.testing.assert_allclose(found["hessian"], hessian, rtol=1e-9, atol=1e-12)


def test_double_precision_stays_inside(ladder):
    before = jax.jit(lambda x: x * 2)(1.0)
    found = fit.fit(CHINCHILLA, ladder())
    after = jax.jit(lambda x: x * 2)(1.0)
    assert found.theta.dtype == np.float64
    assert before.dtype == after.dtype == jnp.zeros(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_weights_count_points(ladder):
    points = ladder(point_noise=3e-3)
    keep = np.arange(len(points)) != 5
    twice = np.arange(len(points)) == 7
    weighted = fit.fit(CHINCHILLA, points, weights=keep + twice.astype(float))
    rows = np.concatenate([np.flatnonzero(keep), [7]])
    assert weighted.params == pytest.approx(fit.fit(CHINCHILLA, points.select(rows)).params, rel=1e-6)


def test_certificate_says_that_two_sizes_cannot_separate_three_parameters(ladder):
    points = ladder(sizes=(12e3, 190e3, 12e3, 190e3), point_noise=1e-3)
    evidence = fit.fit(CHINCHILLA, points).certificate
    assert not evidence.identified
    assert any("cannot tell" in finding or "edge of its range" in finding for finding in evidence.findings)
    assert fit.fit(CHINCHILLA, ladder(point_noise=1e-3)).certificate.identified


def test_certificate_counts_the_points_to_spare(ladder):
    points = ladder(point_noise=1e-3)
    few = points.select(np.array([0, 2, 5, 8, 11, 19]))
    assert "only 1 points more than parameters" in " ".join(fit.fit(CHINCHILLA, few).certificate.findings)
    assert not fit.fit(CHINCHILLA, points).certificate.findings


def test_certificate_names_a_vanished_term():
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 5)))
    noise = np.random.default_rng(0).normal(0, 1e-4, len(n))
    points = Table({"n": n, "d": d, "flops": 6 * n * d}, (1.5 + 40 * n**-0.3) * np.exp(noise), np.arange(30), {})
    evidence = fit.fit(CHINCHILLA, points).certificate
    assert "B" in evidence.at_bounds
    assert "B ran to the edge of its range: the data show no sign of its term" in evidence.findings


def test_a_term_that_outgrows_its_range_is_not_called_absent():
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 5)))
    tiny = Table({"n": n, "d": d, "flops": 6 * n * d}, 1e-6 * (1.5 + 40 * n**-0.3 + 400 * d**-0.3), np.arange(30), {})
    centre, form = tiny.centre, CHINCHILLA
    low_P, high_P = solver.box(form)
    theta_P = np.where(np.arange(5) == 2, high_P, (low_P + high_P) / 2)
    evidence = {"residuals": np.ones(30), "jacobian": np.eye(30, 5), "gradient": np.zeros(5), "hessian": np.eye(5)}
    found = certify.certify(form, centre, theta_P[None], np.ones(1), evidence, (low_P, high_P))
    assert found.at_bounds == ("B",)
    assert found.findings[0].startswith("B ran to the edge of its range (")
    assert found.findings[0].endswith("the data do not determine it")


def test_a_descent_that_stops_early_is_found_out(ladder, monkeypatch):
    """A few steps of each leg, and no stragglers' leg to speak of, end on a slope."""
    points = ladder(point_noise=2e-3, trunk_noise=2e-3)
    whole = fit.fit(CHINCHILLA, points).certificate
    assert not whole.findings
    last = solver.STRAGGLERS[-1]._replace(iterations=1)  # looks where it stands
    monkeypatch.setattr(solver, "STRAGGLERS", (*solver.STRAGGLERS[:-1], last))
    monkeypatch.setattr(solver, "DESCENT", tuple(stage._replace(iterations=3) for stage in solver.DESCENT))
    stopped = fit.fit(CHINCHILLA, points)
    assert stopped.certificate.fall > certify.SAME_OPTIMUM * stopped.objective
    said = " ".join(stopped.certificate.findings)
    assert "the descent stopped before the minimum" in said or "not a minimum" in said


@pytest.mark.parametrize(
    ("gradient", "curvature", "sentence"),
    [
        (np.zeros(5), 1.0, ""),
        (np.array([0.0, 1e-5, 0, 0, 0]), 1.0, ""),  # a step would gain 5e-11 of an objective of 1
        (np.array([0.0, 1e-3, 0, 0, 0]), 1.0, "the descent stopped before the minimum: fit again with more starts"),
        (np.zeros(5), -1.0, "not a minimum: the objective still falls along A; fit again with more starts"),
        (np.zeros(5), -1e-12, ""),  # rounding
    ],
)
def test_a_certificate_judges_the_point_that_it_is_of(gradient, curvature, sentence):
    hessian = np.diag([1.0, curvature, 1.0, 1.0, 1.0])
    evidence = {"residuals": np.ones(9), "jacobian": np.eye(9, 5), "gradient": gradient, "hessian": hessian}
    centre, box = {"n": 1.0, "d": 1.0, "loss": 1.0}, (-9 * np.ones(5), 9 * np.ones(5))
    found = certify.certify(CHINCHILLA, centre, np.ones((4, 5)), np.ones(4), evidence, box)
    said = [finding for finding in found.findings if "fit again" in finding]
    assert said == ([sentence] if sentence else [])


def test_one_start_alone_is_no_search(ladder):
    assert any("a single start" in line for line in fit.fit(CHINCHILLA, ladder(), starts=1).certificate.findings)


def test_a_point_of_no_weight_is_as_if_it_were_not_there(ladder):
    """Down to certificate and intervals, whatever its loss."""
    points = ladder(point_noise=3e-3, trunk_noise=2e-3)
    keep = np.arange(len(points)) % 5 != 2
    worse = Table(points.columns, np.where(keep, points.loss, 2 * points.loss), points.cluster, {})
    weighted, without = fit.fit(CHINCHILLA, worse, weights=keep.astype(float)), fit.fit(CHINCHILLA, points.select(keep))
    assert weighted.params == without.params
    assert weighted.certificate == without.certificate
    intervals = [uncertainty.bootstrap(f, replicates=100, audit_share=0).param_intervals() for f in (weighted, without)]
    assert intervals[0] == intervals[1]
    with pytest.raises(UserError, match="all 24 weights are 0"):
        fit.fit(CHINCHILLA, points, weights=np.zeros(len(points)))


def test_one_weight_for_all_changes_nothing_but_the_objective(ladder):
    points = ladder(point_noise=3e-3, trunk_noise=2e-3)
    plain, quarter = (fit.fit(CHINCHILLA, points, weights=np.full(len(points), w)) for w in (1.0, 0.25))
    assert quarter.objective == pytest.approx(plain.objective / 4)
    assert quarter.certificate.standard_errors == pytest.approx(dict(plain.certificate.standard_errors), rel=1e-4)
    intervals = [uncertainty.bootstrap(f, replicates=100, audit_share=0).param_intervals() for f in (plain, quarter)]
    for name, ends in intervals[0].items():
        assert intervals[1][name] == pytest.approx(ends, rel=1e-3)


def test_an_error_is_drawn_as_large_as_its_weight_says(ladder):
    """Points at a quarter of the weight have twice the error: replicates spread so, and the fit knows the noise."""
    points = ladder(sizes=(12e3, 24e3, 47e3, 95e3, 190e3) * 6)
    weight = np.where(np.arange(len(points)) % 2, 1.0, 0.25)
    noise = np.random.default_rng(0).normal(0, 2e-3, len(points)) / np.sqrt(weight)
    noisy = Table(points.columns, points.loss * np.exp(noise), np.arange(len(points)).astype(str), {})
    found = fit.fit(CHINCHILLA, noisy, weights=weight)
    drawn = resampling.components(found, np.arange(len(noisy)), 400, np.random.default_rng(1)).data.log_loss
    spread = drawn.std(0)
    assert spread[weight < 1].mean() == pytest.approx(4e-3, rel=0.15)
    assert spread[weight == 1].mean() == pytest.approx(2e-3, rel=0.15)


def test_second_basin_is_reported():
    value_S = np.array([1.0, 1.0, 1.0 + 1e-12, 2.0, 2.0, 3.0])
    theta_SP = np.zeros((6, 5))
    evidence = {
        "residuals": np.ones(8),
        "jacobian": np.random.default_rng(0).normal(size=(8, 5)),
        "gradient": np.zeros(5),
        "hessian": np.eye(5),
    }
    found = certify.certify(
        CHINCHILLA, {"n": 1.0, "d": 1.0, "loss": 1.0}, theta_SP, value_S, evidence, (-np.ones(5), np.ones(5))
    )
    assert found.second_basin == (2.0, pytest.approx(1 / 3))  # 3.0 is one start that got stuck, no basin
    assert found.share_at_optimum == pytest.approx(0.5)
