import itertools

import jax
import numpy as np
import pytest

from scaling.laws import derivatives, fit, forms, solver
from scaling.laws.derivatives import Skeleton
from scaling.laws.table import Table

POWERS = (forms.CHINCHILLA, forms.OVERTRAINING, forms.WIDTH_DEPTH, forms.COMPUTE)


def table(form: forms.Form, rows: int = 40) -> Table:
    rng = np.random.default_rng(0)
    columns = {name: np.exp(rng.uniform(3, 9, rows)) for name in form.columns}
    return Table(columns, np.exp(rng.normal(1, 0.2, rows)), np.arange(rows), {})


@pytest.mark.parametrize("form", POWERS, ids=lambda form: form.name)
def test_features_give_what_automatic_differentiation_gives(form):
    points = table(form)
    data = fit.as_points(form, points, np.linspace(0.5, 2, len(points)))
    law = Skeleton.of(form)

    @jax.jit
    def both(theta_P, newton):
        known = derivatives.features(law, data)
        ours = derivatives.differentiate_powers(law, data, known, theta_P, 0.1, newton)
        return ours, derivatives.differentiate(law, data, theta_P, 0.1, newton)

    with jax.enable_x64(True):
        for theta_P, newton in itertools.product(solver.draw_starts(form, data, 3, seed=1), (0.0, 1.0)):
            ours, plain = both(theta_P, newton)
            np.testing.assert_allclose(ours.value, plain.value, rtol=1e-12)
            np.testing.assert_allclose(ours.gradient, plain.gradient, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(ours.curvature, plain.curvature, rtol=1e-9, atol=1e-11)


def test_the_curvature_is_the_objectives_hessian_and_the_reweighted_one_has_no_negative_direction():
    form = forms.CHINCHILLA
    points = table(form)
    data, law = fit.as_points(form, points, np.ones(len(points))), Skeleton.of(form)
    theta_P = solver.draw_starts(form, data, 1, seed=0)[0]
    with jax.enable_x64(True):

        @jax.jit
        def at(theta_P, newton):
            return derivatives.differentiate(law, data, theta_P, 0.1, newton)

        def value(theta_P):
            return at(theta_P, 1.0).value

        here, reweighted = at(theta_P, 1.0), at(theta_P, 0.0)
        np.testing.assert_allclose(here.gradient, jax.jit(jax.grad(value))(theta_P), rtol=1e-10)
        np.testing.assert_allclose(here.curvature, jax.jit(jax.hessian(value))(theta_P), rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(reweighted.curvature).min() > -1e-12
    assert np.linalg.eigvalsh(here.curvature).min() < 0  # so far from the optimum the two differ


def test_which_terms_are_power_laws_is_found_by_trying():
    def reads(form):
        return derivatives.dependence(Skeleton.of(form))

    assert reads(forms.CHINCHILLA) == ((), (0,), (1,))
    assert reads(forms.OVERTRAINING) == ((), (0,), (0,))
    assert reads(forms.WIDTH_DEPTH) == ((), (0,), (1,), (2,))
    for form in (forms.KAPLAN, forms.COUPLED, forms.DATA_CONSTRAINED, forms.PRECISION, forms.ACCURACY):
        assert reads(form) is None
    assert reads(forms.CHINCHILLA.hold({"alpha": 0.3})) is None


def test_parameters_held_at_other_values_share_a_program():
    skeletons = {Skeleton.of(forms.CHINCHILLA.hold({"alpha": value}).bound({"beta": (0, 1)})) for value in (0.3, 0.4)}
    assert len(skeletons) == 1
    assert skeletons.pop().free == ("E", "A", "B", "beta")
