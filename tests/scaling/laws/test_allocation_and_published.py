import numpy as np
import pytest

from scaling.laws import allocation, fit, published, report, uncertainty
from scaling.laws.forms import CHINCHILLA
from scaling.laws.table import Table


@pytest.fixture(scope="module")
def replicated(ladder) -> uncertainty.Bootstrap:
    return uncertainty.bootstrap(fit.fit(CHINCHILLA, ladder(point_noise=2e-3)), replicates=200, audit_share=0)


def test_allocation_spends_the_budget_and_says_how_far_it_reaches(replicated):
    largest = replicated.fit.table.columns["flops"].max()
    row = allocation.allocate(replicated, 1000 * largest, bytes_per_token=4.0)
    assert 6 * row.n * row.d == pytest.approx(row.flops)
    assert row.tokens_per_parameter == pytest.approx(row.d / row.n)
    assert row.bytes_per_parameter == pytest.approx(4 * row.d / row.n)
    assert row.extrapolation == pytest.approx(3)
    assert row.indicative
    assert row.ratio_interval.low < row.tokens_per_parameter < row.ratio_interval.high
    # No neighbour on the same budget is better.
    for factor in (0.9, 1.1):
        assert row.loss < replicated.fit.predict({"n": row.n * factor, "d": row.d / factor})
    inside = allocation.allocate(replicated, largest / 10, bytes_per_token=4.0)
    assert inside.extrapolation == 0


def test_allocation_reads_6nd_and_no_other_count_of_flops(replicated, ladder):
    """With a file's own FLOPs (attention, embeddings: here three times 6 N D) the answer stays the same."""
    table = ladder(point_noise=2e-3)
    other = Table(table.columns | {"flops": 3 * table.columns["flops"]}, table.loss, table.cluster, {})
    again = uncertainty.bootstrap(fit.fit(CHINCHILLA, other), replicates=200, audit_share=0)
    budget = 100 * table.columns["flops"].max()
    row = allocation.allocate(again, budget, bytes_per_token=4.0)
    assert row == allocation.allocate(replicated, budget, bytes_per_token=4.0)
    assert row.extrapolation == pytest.approx(2)
    assert allocation.exponent(again) == allocation.exponent(replicated)
    by_default, plain = (report.analyse(points, replicates=100) for points in (other, table))
    assert [r.flops for r in by_default.allocations] == [r.flops for r in plain.allocations]
    assert "whatever the flops column counts" in by_default.conventions["budget"]


def test_exponent_is_that_of_the_optimum(replicated):
    a, interval = allocation.exponent(replicated)
    params, spread = replicated.fit.params, replicated.params
    assert a == pytest.approx(params["beta"] / (params["alpha"] + params["beta"]))
    assert interval == pytest.approx(replicated.interval(spread["beta"] / (spread["alpha"] + spread["beta"])))
    assert interval.low < a < interval.high


def test_hoffmann_reproduces_its_own_table_a3():
    """Table A3, approach 3: parameters, FLOPs, tokens. Only unrounded constants come near it."""
    table_a3 = [(1e9, 1.62e20, 27.1e9), (67e9, 1.71e24, 4.1e12), (280e9, 3.52e25, 20.1e12), (1e12, 5.65e26, 94.1e12)]
    for n, flops, d in table_a3:
        assert published.HOFFMANN.tokens_per_parameter(flops) == pytest.approx(d / n, rel=0.2)
        assert published.HOFFMANN_ROUNDED.tokens_per_parameter(flops) > 1.4 * d / n


def test_minicpm_ratios():
    """Section 4.5: 192 on average at 1e21 FLOPs; the Ultratext panel prints 95.60 from rounded constants."""
    assert published.MINICPM.tokens_per_parameter(1e21) == pytest.approx(192)
    # eta = -0.10: the ratio grows tenfold in ten orders of magnitude.
    growth = published.MINICPM.tokens_per_parameter(1e31) / published.MINICPM.tokens_per_parameter(1e21)
    assert growth == pytest.approx(10)
    assert published.MINICPM_ULTRATEXT.tokens_per_parameter(1e21) == pytest.approx(95.6, rel=0.06)
    assert CHINCHILLA.predict(published.MINICPM_ULTRATEXT.params, {"n": 1e9, "d": 1e9}) == pytest.approx(
        0.0754 + 0.292 + 0.25
    )


def test_chinchilla_deserves_about_twenty_tokens():
    assert 17 < published.CHINCHILLA_CONVERGED.tokens_per_parameter(5.76e23) < 25
    assert 17 < published.BESIROGLU.tokens_per_parameter(5.76e23) < 25


def test_converged_constants_are_our_fit(epoch):
    params = fit.fit(CHINCHILLA, epoch).params
    assert dict(published.CHINCHILLA_CONVERGED.params) == pytest.approx(params, rel=1e-7)
    low, high = published.CHINCHILLA_CONVERGED.flops_range
    assert epoch.columns["flops"].min() == pytest.approx(low, rel=0.05)
    assert epoch.columns["flops"].max() == pytest.approx(high, rel=0.05)


def test_comparison_converts_through_bytes():
    rows = published.compare([1e20, 1e24], bytes_per_token=2.0, laws=published.HEADLINE)
    names = ["Chinchilla (Hoffmann)", "Chinchilla (our refit)", "MiniCPM (average)"]
    assert [(row.name, row.flops) for row in rows] == [(name, flops) for flops in (1e20, 1e24) for name in names]
    for row in rows:
        assert row.our_tokens_per_parameter == pytest.approx(row.bytes_per_parameter / 2)
    assert rows[0].bytes_per_parameter == pytest.approx(4.48 * rows[0].tokens_per_parameter)
    assert "assumed" in rows[0].conversion
    assert rows[0].n_convention == "all parameters"
    assert rows[2].bytes_per_parameter == pytest.approx(3.40 * rows[2].tokens_per_parameter)
    assert rows[2].n_convention == "non-embedding parameters"
    assert rows[0].extrapolation == 0
    assert rows[3].extrapolation == pytest.approx(np.log10(1e24 / 1.3e22))
    assert published.orders_outside(1e15, 1e17, 1e20) == pytest.approx(2)
