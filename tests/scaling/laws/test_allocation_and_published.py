import pytest

from scaling.laws import allocation, fit, report, uncertainty
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
