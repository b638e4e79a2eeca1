import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.laws import embedding, published
from scaling.laws.embedding import CHINCHILLA_OMEGA, NonEmbeddingLaw
from scaling.laws.forms import CHINCHILLA

# Hoffmann et al. 2022, table A9: millions of parameters in all, and width.
CHINCHILLA_MODELS = (
    (44, 512), (57, 576), (74, 640), (90, 640), (106, 640), (117, 768), (140, 768), (163, 768), (175, 896), (196, 896),
    (217, 896), (251, 1024), (278, 1024), (306, 1024), (425, 1280), (489, 1280), (509, 1408), (552, 1280), (587, 1408),
    (632, 1536), (664, 1408), (724, 1536), (816, 1536), (893, 1792), (1018, 1792), (1143, 1792), (1266, 2048),
    (1424, 2176), (1429, 2048), (1593, 2048), (1609, 2176), (1731, 2304), (1794, 2176), (2007, 2304), (2283, 2304),
    (2298, 2560), (2639, 2560), (2980, 2560), (3530, 2688), (3802, 2816), (4084, 2944), (4516, 3072), (6796, 3584),
    (9293, 4096), (11452, 4352), (12295, 4608), (12569, 4608), (13735, 4864), (14494, 4992), (16183, 5120),
)  # fmt: skip

LAWS = {law.name: NonEmbeddingLaw(law.params, CHINCHILLA_OMEGA) for law in (published.HOFFMANN, published.BESIROGLU)}


def test_omega_of_chinchillas_models_and_of_their_shape():
    """52960 stands beside 47491 in Pearce & Song's script; 32 K entries at width = 39.2 layers give the latter."""
    total, width = np.array(CHINCHILLA_MODELS, float).T
    fitted = embedding.fit_omega(1e6 * total - 32e3 * width, 1e6 * total)
    assert fitted == pytest.approx(52960, abs=0.5)
    assert embedding.omega_of_shape(32e3, 39.2) == pytest.approx(CHINCHILLA_OMEGA, rel=1e-3)
    # An exact model: N = 12 L width^2 outside one table of V width, two if untied.
    layers, width, vocabulary = 8, 512, 1000
    n = 12 * layers * width**2
    for tables in (1, 2):
        omega = embedding.omega_of_shape(vocabulary, width / layers, tied=tables == 1)
        assert embedding.total(n, omega) == pytest.approx(n + tables * vocabulary * width)


@given(st.floats(0, 15), st.floats(-2, 8))
def test_the_two_counts_convert_both_ways(log_n, log_omega):
    n, omega = 10**log_n, 10**log_omega
    assert embedding.non_embedding(embedding.total(n, omega), omega) == pytest.approx(n, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "published_exponent"), [("Chinchilla (Hoffmann)", 0.74), ("Chinchilla (Besiroglu)", 0.78)]
)
def test_kaplans_exponent_from_chinchillas_law(name, published_exponent):
    """Pearce & Song simulate .74 and .78 at Kaplan's scale, on a frontier of twenty sizes over 10^12.95 to 10^20.7.

    Without that grid of sizes, the optimum itself over the same budgets has these exponents to half a hundredth, and
    over Kaplan's 768 to 1.5e9 parameters to one.
    """
    law = LAWS[name]
    flops = np.geomspace(10**12.95, 10**20.7, 100)
    slope, _ = np.polyfit(np.log(flops), np.log(law.optimum(flops)["n"]), 1)
    assert slope == pytest.approx(published_exponent, abs=0.006)
    assert law.fitted_exponent(*embedding.KAPLAN_SIZES) == pytest.approx(published_exponent, abs=0.011)
    assert law.fitted_exponent(*embedding.KAPLAN_SIZES) == pytest.approx(0.73, abs=0.06)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_exponent_has_chinchillas_and_the_embeddings_limits(law):
    alpha, beta = law.params["alpha"], law.params["beta"]
    assert law.local_exponent(1e-3) == pytest.approx(beta / (alpha / 3 + beta), rel=1e-3)
    assert law.local_exponent(1e15) == pytest.approx(beta / (alpha + beta), rel=1e-3)
    n, h = np.geomspace(1e2, 1e13, 12), 1e-4
    numeric = 2 * h / np.log(law.flops(n * np.exp(h)) / law.flops(n * np.exp(-h)))
    np.testing.assert_allclose(law.local_exponent(n), numeric, rtol=1e-7)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_optimum_is_the_least_loss_of_its_budget(law):
    flops = np.array([1e13, 1e17, 1e21, 1e25])
    best = law.optimum(flops)
    np.testing.assert_allclose(6 * best["n"] * best["d"], flops, rtol=1e-12)
    np.testing.assert_allclose(law.tokens(best["n"]), best["d"], rtol=1e-9)
    for shift in (0.95, 1.05):
        assert np.all(law.loss(best["n"], best["d"]) < law.loss(shift * best["n"], best["d"] / shift))


def test_without_embeddings_nothing_changes():
    params = published.BESIROGLU.params
    law, flops = NonEmbeddingLaw(params, 0.0), np.array([1e15, 1e24])
    np.testing.assert_allclose(law.optimum(flops)["n"], CHINCHILLA.optimum(params, flops)["n"], rtol=1e-9)
    assert law.fitted_exponent(1e4, 1e9) == pytest.approx(published.BESIROGLU.exponent, rel=1e-9)


def test_counts_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="model 1 has 5 of 5 parameters"):
        embedding.fit_omega([1, 5], [2, 5])
    with pytest.raises(UserError, match="both must be positive"):
        embedding.omega_of_shape(32e3, 0)
