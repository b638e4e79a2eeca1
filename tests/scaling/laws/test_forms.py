import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from scaling.errors import UserError
from scaling.laws import fit, forms, repetition
from scaling.laws.forms import CHINCHILLA, FORMS, Form, Shape
from scaling.laws.table import Table

exponent = st.floats(0.1, 1.0)
laws = st.fixed_dictionaries(
    {"E": st.floats(0.3, 3), "A": st.floats(1, 1e4), "B": st.floats(1, 1e4), "alpha": exponent, "beta": exponent}
)


@given(laws, st.floats(1e3, 1e10), st.floats(1e5, 1e12), st.floats(0.5, 8))
def test_coordinates_and_physical_parameters_are_inverses(law, n, d, loss):
    centre = {"n": n, "d": d, "loss": loss}
    theta_P = CHINCHILLA.coordinates(law, centre)
    # A coefficient's coordinate is the log of its term at the centre, relative to the loss there.
    assert theta_P[1] == pytest.approx(np.log(law["A"] / n ** law["alpha"] / loss), abs=1e-9)
    back = CHINCHILLA.physical(theta_P, centre)
    assert {name: float(v) for name, v in back.items()} == pytest.approx(law, rel=1e-9)


@given(laws, st.floats(1e12, 1e25))
def test_optimum_is_where_loss_is_least_along_a_budget(law, flops):
    best = CHINCHILLA.optimum(law, flops)
    assert 6 * best["n"] * best["d"] == pytest.approx(flops)

    # In logs of terms, so that the minimum is sharp whatever E is.
    def slope(log_n):
        n = np.exp(log_n)
        return law["alpha"] * law["A"] * n ** -law["alpha"] - law["beta"] * law["B"] * (flops / 6 / n) ** -law["beta"]

    at = np.log(best["n"])
    assert slope(at - 1e-3) > 0 > slope(at + 1e-3)

    def loss(log_n):
        return law["A"] * np.exp(-law["alpha"] * log_n) + law["B"] * np.exp(-law["beta"] * (np.log(flops / 6) - log_n))

    numeric = minimize_scalar(loss, bracket=(at - 2, at + 3), tol=1e-12)
    assert loss(at) <= numeric.fun * (1 + 1e-12)


def test_a_new_form_is_ten_lines():
    power_law = Form(
        name="power",
        formula="L = E + K / C^gamma",
        mathtext="$L = {E} + {K} / C^{{{gamma}}}$",
        columns=("flops",),
        coefficients=("E", "K"),
        shapes=(Shape("gamma"),),
        units={},
        source="",
        log_basis=lambda s, x: (0.0, -s["gamma"] * x["flops"]),
        optimum=lambda params, flops: {},
    )
    flops = np.geomspace(1e15, 1e21, 12)
    loss = 1.7 + 300.0 * flops**-0.14
    found = fit.fit(power_law, Table({"flops": flops}, loss, np.arange(12), {}))
    assert found.params == pytest.approx({"E": 1.7, "K": 300.0, "gamma": 0.14}, rel=1e-6)


PLANTED = {
    "kaplan": {"A": 8.8e13**0.076, "B": 5.4e13**0.103, "alpha": 0.076, "beta": 0.103},
    "compute": {"E": 1.7, "A": 3000.0, "alpha": 0.15},
    "data_constrained": {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36, "r_n": 5.3, "r_d": 15.4},
    "overtraining": {"E": 1.8, "a": 200.0, "b": 300.0, "eta": 0.15},
    "coupled": {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36, "gamma": 0.7},
    "width_depth": {"E": 1.7, "A": 60.0, "G": 3.0, "B": 1500.0, "alpha": 0.8, "gamma": 0.9, "beta": 0.36},
    "accuracy": {"chance": 0.25, "gain": 0.6, "slope": 3.0, "midpoint": 1.6},
}
BITS = {"gamma_w": 2.67, "gamma_a": 2.21, "gamma_kv": 0.96}
PLANTED["precision"] = CHINCHILLA_LIKE = {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36} | BITS
PLANTED["precision_ptq"] = CHINCHILLA_LIKE | {"C": 0.06, "gamma_d": 0.5, "gamma_n": 0.34, "gamma_post": 0.59}


def many_columns():
    """A design that varies everything that any form reads."""
    rng = np.random.default_rng(0)
    n, ratio = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2, 200, 6)))
    d, bits = n * ratio, [3.0, 4.0, 6.0, 8.0, 16.0]
    unique = np.minimum(d, rng.choice([1e8, 1e9, 1e10], 36))
    columns = {"n": n, "d": d, "flops": 6 * n * d, "d_unique": unique}
    columns |= {"width": np.sqrt(n) * rng.uniform(0.2, 0.6, 36), "depth": rng.integers(4, 40, 36).astype(float)}
    columns |= {name: rng.choice(bits, 36) for name in ("p_w", "p_a", "p_kv")}
    return columns | {"p_post": rng.choice([2.0, 3.0, 4.0, 8.0, 1000.0], 36), "task_loss": rng.uniform(0.5, 3, 36)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_every_form_recovers_its_law(name):
    form, columns = FORMS[name], many_columns()
    noise = np.random.default_rng(1).normal(0, 1e-6, 36)
    points = Table(columns, form.predict(PLANTED[name], columns) * np.exp(noise), np.arange(36), {})
    found = fit.fit(form, points)
    assert found.params == pytest.approx(PLANTED[name], rel=2e-3)
    assert not found.certificate.findings
    assert form.physical(form.coordinates(found.params, points.centre), points.centre) == pytest.approx(found.params)


def test_every_form_says_what_it_is():
    assert set(PLANTED) | {"chinchilla"} == set(FORMS)
    for name, form in FORMS.items():
        assert form.name == name
        assert set(form.units) == set(form.params)
        assert form.source
        assert form.mathtext.format(**dict.fromkeys(form.params, "1"))
        assert {field for _, field, _, _ in string.Formatter().parse(form.mathtext) if field} == set(form.params)


def test_kaplan_is_the_papers_law_in_other_letters():
    n_c, d_c, alpha_n, alpha_d = 6.4e13, 1.8e13, 0.076, 0.103  # table 2
    params = {"A": n_c**alpha_n, "B": d_c**alpha_d, "alpha": alpha_n, "beta": alpha_d}
    n, d = np.array([1e6, 1e9]), np.array([1e10, 3e8])
    printed = ((n_c / n) ** (alpha_n / alpha_d) + d_c / d) ** alpha_d  # equation 1.5
    assert forms.KAPLAN.predict(params, {"n": n, "d": d}) == pytest.approx(printed, rel=1e-12)


def test_coupled_is_chinchilla_at_gamma_1():
    law, at = {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36}, {"n": 1e8, "d": 3e9}
    assert forms.COUPLED.predict(law | {"gamma": 1.0}, at) == pytest.approx(CHINCHILLA.predict(law, at), rel=1e-12)


def test_overtraining_is_chinchilla_with_equal_exponents():
    a, b, eta = 200.0, 300.0, 0.15
    same = {"E": 1.8, "A": a * 6**-eta, "B": b * 6**-eta, "alpha": 2 * eta, "beta": 2 * eta}
    at = {"n": np.array([1e7, 1e9]), "d": np.array([1e9, 3e9])}
    ours = forms.OVERTRAINING.predict({"E": 1.8, "a": a, "b": b, "eta": eta}, at)
    # a M^eta C^-eta = a 6^-eta N^(-2 eta): the first term is the one of N.
    assert ours == pytest.approx(CHINCHILLA.predict(same, at), rel=1e-12)


def test_data_constrained_agrees_with_the_papers_arithmetic():
    params = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.35, "r_n": 5.31, "r_d": 15.39}
    n, d, unique = 6.34e9, 242e9, 25e9
    ours = forms.DATA_CONSTRAINED.predict(params, {"n": n, "d": d, "d_unique": unique})
    assert ours == pytest.approx(repetition.loss(params, n, d, unique), rel=1e-12)


def test_bits_without_end_leave_chinchilla():
    law, at = CHINCHILLA_LIKE, {"n": 1e8, "d": 3e9}
    full = at | dict.fromkeys(("p_w", "p_a", "p_kv"), 1000.0)
    assert forms.PRECISION.predict(law, full) == pytest.approx(CHINCHILLA.predict(law, at), rel=1e-12)
    # Kumar et al.: a weight at 4 bits with gamma_w = 2.6745 keeps 77.6% of the parameters.
    kept = CHINCHILLA.predict(law, {"n": 0.776e8, "d": 3e9})
    assert forms.PRECISION.predict(law | {"gamma_w": 2.6745}, full | {"p_w": 4.0}) == pytest.approx(kept, rel=1e-4)


def test_held_parameters_are_not_fitted_and_the_rest_is(ladder, planted):
    points = ladder(point_noise=1e-3)
    free = fit.fit(CHINCHILLA, points)
    at_truth = fit.fit(CHINCHILLA, points, fixed={"alpha": planted["alpha"], "E": planted["E"]})
    assert (at_truth.params["alpha"], at_truth.params["E"]) == (planted["alpha"], pytest.approx(planted["E"]))
    assert len(at_truth.theta) == 3
    assert at_truth.objective >= free.objective
    # Held at its optimum, a parameter changes nothing.
    again = fit.fit(CHINCHILLA, points, fixed={"beta": free.params["beta"], "A": free.params["A"]})
    assert again.params == pytest.approx(free.params, rel=1e-5)
    without = fit.fit(CHINCHILLA, points, fixed={"E": 0.0})
    assert without.params["E"] == 0
    assert without.objective > free.objective


def test_bounds_hold_and_are_reported(ladder, planted):
    found = fit.fit(CHINCHILLA, ladder(point_noise=1e-3), bounds={"alpha": (0.1, 0.3)})
    assert found.params["alpha"] == pytest.approx(0.3)
    assert found.certificate.at_bounds == ("alpha",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fixed": {"gamma": 1.0}}, "'gamma' is no parameter of 'chinchilla': it has E, A, B, alpha, beta"),
        ({"fixed": {"A": -1.0}}, "hold a coefficient"),
        ({"fixed": {"alpha": -0.3}}, "alpha = -0.3: 'chinchilla' has it from 0.01 to 4.0"),
        ({"fixed": dict.fromkeys(("E", "A", "B", "alpha", "beta"), 1.0)}, "all parameters"),
        ({"bounds": {"A": (1.0, 2.0)}}, "held at a value, but not bounded"),
        ({"bounds": {"alpha": (0.5, 0.1)}}, "the lower end comes first"),
    ],
)
def test_what_cannot_be_held_or_bounded_is_named(ladder, change, words):
    with pytest.raises(UserError, match=words):
        fit.fit(CHINCHILLA, ladder(), **change)


def test_what_acts_through_tokens_is_found_by_trying():
    assert CHINCHILLA.without("d") == ("E", "A", "alpha")
    assert CHINCHILLA.hold({"E": 1.7}).without("d") == ("A", "alpha")
    assert forms.WIDTH_DEPTH.without("d") == ("E", "A", "G", "alpha", "gamma")
    assert forms.OVERTRAINING.without("d") == ("E", "a")  # a M^eta C^-eta = a 6^-eta N^(-2 eta)
    assert forms.PRECISION.without("d") == ("E", "A", "alpha", "gamma_w", "gamma_a", "gamma_kv")
    assert forms.DATA_CONSTRAINED.without("d") == ("E", "A", "alpha", "r_n")
    assert CHINCHILLA.without("n") == ("E", "B", "beta")
    assert forms.COMPUTE.without("d") == ("E", "A", "alpha")
