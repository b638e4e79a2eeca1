import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from scaling.laws import fit
from scaling.laws.forms import CHINCHILLA, Form, Shape
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
