import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import UserError
from scaling.laws import allocation, fit, published, report, uncertainty
from scaling.laws.budget import SIX_ND, Axis, Cost, Market
from scaling.laws.forms import CHINCHILLA, Form, Shape
from scaling.laws.table import Table


@pytest.fixture(scope="module")
def replicated(ladder) -> uncertainty.Bootstrap:
    return uncertainty.bootstrap(fit.fit(CHINCHILLA, ladder(point_noise=2e-3)), replicates=200, audit_share=0)


BITS = Form(
    name="bits",
    formula="L = E + A / (N exp(-(log P - 3)^2 / 4))^alpha + B / D^beta",
    mathtext="",
    columns=("n", "d", "bits"),
    coefficients=("E", "A", "B"),
    shapes=(Shape("alpha"), Shape("beta")),
    units={},
    source="made up: parameters of few bits count for less",
    log_basis=lambda s, x: (0.0, -s["alpha"] * (x["n"] - (x["bits"] - 3) ** 2 / 4), -s["beta"] * x["d"]),
    optimum=CHINCHILLA.optimum,
)
BITS_COST = Cost(training=lambda c: 6 * c["n"] * c["bits"] / 16, serving=lambda c: 2 * c["n"] * c["bits"] / 16)


def test_allocation_spends_the_budget_and_says_how_far_it_reaches(replicated):
    largest = replicated.fit.table.columns["flops"].max()
    row = allocation.allocate(replicated, 1000 * largest, bytes_per_token=4.0)
    assert 6 * row.n * row.d == pytest.approx(row.flops)
    assert row.tokens_per_parameter == pytest.approx(row.d / row.n)
    assert row.bytes_per_parameter == pytest.approx(4 * row.d / row.n)
    assert row.extrapolation == pytest.approx(3)
    assert row.indicative
    assert row.ratio_interval.low < row.tokens_per_parameter < row.ratio_interval.high
    assert allocation.allocate(replicated, largest / 10, bytes_per_token=4.0).extrapolation == 0


@settings(deadline=None, max_examples=40)
@given(
    alpha=st.floats(0.1, 1.2),
    beta=st.floats(0.1, 1.2),
    log_a=st.floats(1, 8),
    log_b=st.floats(1, 8),
    log_flops=st.floats(25, 58),
)
def test_the_optimum_found_is_the_closed_form(alpha, beta, log_a, log_b, log_flops):
    params = {"E": 1.5, "A": np.exp(log_a), "B": np.exp(log_b), "alpha": alpha, "beta": beta}
    flops = np.exp(log_flops)
    closed = CHINCHILLA.optimum(params, flops)
    found = Market(CHINCHILLA).optimum(params, flops)
    if 1 < closed["n"] < flops / 6:  # whole models and tokens
        # A minimum is known to the root of the rounding of its loss.
        assert CHINCHILLA.predict(params, found) <= CHINCHILLA.predict(params, closed) * (1 + 1e-14)
        assert 6 * found["n"] * found["d"] == pytest.approx(flops)


def test_replicates_are_solved_as_one(replicated):
    found, closed = Market(CHINCHILLA).optimum(replicated.params, 1e12), CHINCHILLA.optimum(replicated.params, 1e12)
    assert found["n"] == pytest.approx(closed["n"], rel=1e-6)
    assert found["d"] == pytest.approx(closed["d"], rel=1e-6)


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


def test_the_flat_region_ends_where_the_tolerance_does(replicated):
    row = allocation.allocate(replicated, 1e12, 1.0, tolerance=2e-3)
    for n, ratio in zip(row.flat_n, reversed(row.flat_ratio), strict=True):
        d = row.flops / 6 / n
        assert replicated.fit.predict({"n": n, "d": d}) / row.loss == pytest.approx(1.002, abs=1e-6)
        assert d / n == pytest.approx(ratio)
    assert row.flat_n.low < row.n < row.flat_n.high
    narrow = allocation.allocate(replicated, 1e12, 1.0, tolerance=2e-5)
    # Around a minimum loss rises with the square: a hundredth of the tolerance is a tenth of the width.
    width, tenth = (np.log(r.flat_n.high / r.flat_n.low) for r in (row, narrow))
    assert tenth == pytest.approx(width / 10, rel=0.02)


def test_what_the_bootstrap_cannot_tell_apart(replicated):
    row = allocation.allocate(replicated, 1e12, 1.0)
    best = replicated.predict({"n": row.n, "d": row.d})[:, 0]

    def differs(n: float) -> bool:
        low, high = replicated.interval(replicated.predict({"n": n, "d": row.flops / 6 / n})[:, 0] - best)
        return low > 0 or high < 0

    low, high = row.alike_n
    assert low < row.n_interval.low
    assert row.n_interval.high < high
    assert not differs(1.01 * low)
    assert not differs(high / 1.01)
    assert differs(low / 1.01)
    assert differs(1.01 * high)


def test_serving_makes_models_smaller_and_is_paid_from_the_budget(replicated):
    plain = allocation.allocate(replicated, 1e12, 1.0)
    served = allocation.allocate(replicated, 1e12, 1.0, inference_tokens=plain.d)
    assert served.n < plain.n
    assert 6 * served.n * served.d + 2 * served.n * plain.d == pytest.approx(1e12)
    assert served.training_flops == pytest.approx(6 * served.n * served.d)
    nearby = [
        replicated.fit.predict({"n": n, "d": (1e12 - 2 * n * plain.d) / (6 * n)})
        for n in (served.n * 0.99, served.n * 1.01)
    ]
    assert served.loss < min(nearby)


def test_a_13b_model_that_serves_2t_tokens_had_better_be_a_7b():
    """Sardana et al. 2023, figure 1: 17% (1.7e22 FLOPs) of the total are saved, with Hoffmann's constants."""
    params, serving = published.HOFFMANN.params, 2 * 13e9 * 2e12
    market = Market(CHINCHILLA, served=2e12)
    training = 6 * 13e9 * 619e9  # Chinchilla-optimal for 13B under these constants
    assert Market(CHINCHILLA).optimum(params, training)["n"] == pytest.approx(13e9, rel=0.01)
    loss = CHINCHILLA.predict(params, {"n": 13e9, "d": 619e9})
    total = (training + serving) - 1.7e22
    best = market.optimum(params, total)
    assert best["n"] == pytest.approx(7e9, rel=0.03)
    assert CHINCHILLA.predict(params, best) == pytest.approx(loss, rel=1e-3)


def test_cheapest_is_allocate_read_backwards(replicated):
    row = allocation.allocate(replicated, 1e12, 1.0, inference_tokens=1e7)
    found = allocation.cheapest(replicated, row.loss, 1.0, inference_tokens=1e7)
    assert found.flops == pytest.approx(1e12)
    assert found.allocation.n == pytest.approx(row.n, rel=1e-6)
    assert found.flops_interval.low < found.flops < found.flops_interval.high
    assert 0 < found.saving < 1
    assert found.out_of_reach == 0
    # The model that is best for training alone costs what the saving says.
    training = allocation.cheapest(replicated, row.loss, 1.0)
    assert training.saving == pytest.approx(0)
    total = training.flops + 2 * training.allocation.n * 1e7
    assert found.flops == pytest.approx((1 - found.saving) * total)


def test_a_loss_near_the_floor_may_be_out_of_reach(replicated):
    floor = replicated.fit.params["E"]
    near = allocation.cheapest(replicated, 1.02 * floor, 1.0)
    above = np.mean(replicated.params["E"] > 1.02 * floor)
    assert above <= near.out_of_reach < above + 0.2
    assert near.flops_interval.high == np.inf
    with pytest.raises(UserError, match=r"out of the law's reach.*ask for more than 1\.\d+"):
        allocation.cheapest(replicated, 0.9 * floor, 1.0)


def test_a_third_axis_is_chosen_jointly(replicated):
    """Fewer bits cost less and count for less."""
    law = dataclasses.replace(replicated, fit=dataclasses.replace(replicated.fit, form=BITS))
    law = dataclasses.replace(law, params={name: values[:20] for name, values in law.params.items()})
    row = allocation.allocate(law, 1e12, 1.0, cost=BITS_COST, axes=(Axis("bits", 1.0, 32.0),))
    # A budget fixes M = N P / 16 at given D, and N exp(-(log P - 3)^2 / 4) = 16 M exp(-log P - (log P - 3)^2 / 4)
    # is largest where log P = 1, whatever the law.
    assert row.chosen["bits"] == pytest.approx(np.e, rel=1e-4)
    assert row.chosen_intervals["bits"] == pytest.approx((np.e, np.e), rel=1e-4)
    # With P at its best, this is chinchilla's optimum with A and the budget rescaled.
    params = law.fit.params | {"A": law.fit.params["A"] * np.exp(law.fit.params["alpha"])}
    rescaled = CHINCHILLA.optimum(params, 1e12 * 16 / np.e)
    assert row.n == pytest.approx(rescaled["n"], rel=1e-4)
    assert 6 * row.n * row.d * np.e / 16 == pytest.approx(1e12, rel=1e-4)
    assert row.n_interval.low < row.n < row.n_interval.high
    assert row.flat_n.low < row.n < row.flat_n.high


def test_what_cannot_be_spent_on_is_said(replicated):
    with pytest.raises(UserError, match="'bits' also reads bits: give a value, or an axis"):
        Market(BITS, SIX_ND)
    with pytest.raises(UserError, match="budget -1"):
        allocation.allocate(replicated, -1.0, 1.0)
    with pytest.raises(UserError, match="no best split"):
        allocation.allocate(replicated, 20.0, 1.0)
    with pytest.raises(UserError, match=r"1e\+12 FLOPs train nothing beside 1e\+13 tokens served: offer more FLOPs"):
        allocation.allocate(replicated, 1e12, 1.0, inference_tokens=1e13)
