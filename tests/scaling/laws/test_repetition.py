import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.laws import published, repetition
from scaling.laws.forms import CHINCHILLA, DATA_CONSTRAINED

PARAMS = published.MUENNIGHOFF.params
BUDGET = 6 * 8.67e9 * 178e9


def test_the_published_check_values():
    """From the authors' README: the two models of figure 1, 25 B unique tokens."""
    assert repetition.loss(PARAMS, 6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, rel=1e-14)
    assert repetition.loss(PARAMS, 8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, rel=1e-14)
    # Equation 17: U_N = 0.051 U_D.
    assert repetition.optimal_parameters(PARAMS, 25e9) == pytest.approx(0.051 * 25e9, rel=1e-3)


def test_the_published_optimum_under_limited_data():
    """Their grid search: 227 B tokens, 9.1 epochs, 6.8 B parameters for the budget of 8.67 B on 178 B tokens."""
    best = repetition.optimum(PARAMS, BUDGET, 25e9)
    assert 6 * best["n"] * best["d"] == pytest.approx(BUDGET)
    assert best["d"] == pytest.approx(227e9, rel=3e-3)
    assert best["d"] / 25e9 == pytest.approx(9.1, abs=0.05)
    assert best["n"] == pytest.approx(6.8e9, rel=3e-3)


@given(st.floats(18, 26), st.floats(-4, 1), st.floats(1, 40), st.floats(1, 40))
def test_no_other_split_of_the_budget_is_better(log_flops, log_share, r_n, r_d):
    params = PARAMS | {"r_n": r_n, "r_d": r_d}
    flops = 10**log_flops
    base = CHINCHILLA.optimum(params, flops)
    unique = base["d"] * 10**log_share
    best = repetition.optimum(params, flops, unique)
    n = base["n"] * np.geomspace(1e-4, 1e4, 4001)
    least = repetition.loss(params, n, flops / (6 * n), unique).min()
    assert repetition.loss(params, best["n"], best["d"], unique) <= least * (1 + 1e-12)


def test_data_in_plenty_gives_the_base_laws_optimum():
    best, base = repetition.optimum(PARAMS, BUDGET, 1e15), CHINCHILLA.optimum(PARAMS, BUDGET)
    assert best == pytest.approx(base, rel=1e-4)
    assert repetition.loss(PARAMS, base["n"], base["d"], 1e15) == pytest.approx(CHINCHILLA.predict(PARAMS, base))


def test_four_epochs_are_nearly_as_good_as_new_data():
    """Section 6: 8.7 B parameters on 178 B tokens end 0.5% higher after four epochs of 44 B; the law says 0.7%."""
    repeated = repetition.loss(PARAMS, 8.67e9, 178e9, 44e9) / repetition.loss(PARAMS, 8.67e9, 178e9, 178e9)
    assert 1.005 < repeated < 1.008
    worth = repetition.effective(np.array([2.0, 4.0, 16.0, 44.0]), 1.0, PARAMS["r_d"])
    assert worth[1] / 4 > 0.93  # of four epochs' tokens
    assert worth[3] / 44 < 0.36


@given(st.floats(1, 200), st.floats(1e6, 1e13), st.floats(0.5, 100))
def test_repeated_tokens_are_worth_less_each_time(epochs, unique, r):
    worth = repetition.effective(epochs * unique, unique, r)
    assert unique * (1 - 1e-9) <= worth <= min(epochs, 1 + r) * unique * (1 + 1e-9)
    assert repetition.effective(unique / 3, unique, r) == pytest.approx(unique / 3)
    # One more token is worth 1/e of a new one after every r epochs.
    step = 1e-4 * unique
    more, less = (repetition.effective(epochs * unique + s, unique, r) for s in (step, -step))
    if epochs > 1.001:
        slope = np.exp(-(epochs - 1) / r)
        assert (more - less) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@given(*[st.floats(1e6, 1e11)] * 3, st.floats(0.2, 0.6))
def test_the_fitted_form_is_this_law(n, d, unique, beta):
    params = {**PARAMS, "beta": beta}  # the published exponents are equal, which would hide their ratio
    ours = DATA_CONSTRAINED.predict(params, {"n": n, "d": d, "d_unique": unique})
    assert ours == pytest.approx(repetition.loss(params, n, d, unique), rel=1e-9)
