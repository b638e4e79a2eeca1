import dataclasses

import numpy as np
import pytest
from data_builders import data_of, task_named
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.timeline import (
    Segment,
    Timeline,
    lane_edges,
    lane_rows,
    lane_tokens,
    quota_pattern,
    whole_shares,
)
from scaling.errors import UserError

shares = st.lists(st.integers(1, 60), min_size=1, max_size=6).map(tuple)


@given(shares)
def test_no_source_is_ever_a_row_away_from_its_quota(shares):
    pattern, before = quota_pattern(shares)
    period, count = sum(shares), len(shares)
    exact = np.arange(period + 1)[:, None] * np.asarray(shares)  # in units of 1 / period
    bound = period * (1 - 1 / (2 * count - 2)) if count > 1 else 0
    assert np.abs(before * period - exact).max() <= bound + 1e-9  # Tijdeman's theorem
    assert before[-1].tolist() == list(shares)
    assert np.bincount(pattern, minlength=count).tolist() == list(shares)


@given(shares, st.integers(0, 500), st.integers(0, 500))
def test_rows_are_a_partition_of_every_sources_ordinals(shares, first, count):
    segment = Segment(0, tuple((f"s{i}", share) for i, share in enumerate(shares)), 8, 4)
    source, ordinal = segment.rows(first, first + count)
    before, after = segment.rows_before(first), segment.rows_before(first + count)
    for i in range(len(shares)):
        assert ordinal[source == i].tolist() == list(range(before[i], after[i]))
    assert after.sum() == first + count


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"a": 0.9, "b": 0.1}, (("a", 9), ("b", 1))),
        ({"b": 1, "a": 1, "c": 1}, (("a", 1), ("b", 1), ("c", 1))),
        ({"a": 30.0, "b": 0.0, "c": 10.0}, (("a", 3), ("c", 1))),
    ],
)
def test_rates_become_exact_whole_shares(rates, expected):
    assert whole_shares(rates) == expected


def test_rates_without_a_short_period_are_rounded_to_ten_thousandths():
    rates = {"a": np.pi, "b": np.e, "c": 1e-9}
    got = dict(whole_shares(rates))
    total = sum(got.values())
    for name, rate in rates.items():
        assert abs(got[name] / total - rate / sum(rates.values())) < 2e-4
    assert got["c"] == 1


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), max_size=5), st.integers(1, 40))
def test_lanes_share_out_all_tokens_read(history, lanes):
    totals = lane_tokens(history, lanes)
    assert totals.sum() == sum(rows * length for rows, length in history)
    counted = np.zeros(lanes, np.int64)
    row = 0
    for rows, length in history:
        for _ in range(rows):
            counted[row % lanes] += length
            row += 1
    assert totals.tolist() == counted.tolist()
    assert lane_rows(row, lanes).max() - lane_rows(row, lanes).min() <= 1


@given(st.integers(1, 10**12))
def test_lanes_cover_an_epoch_evenly(tokens):
    edges = lane_edges(tokens)
    lengths = np.diff(edges)
    assert (edges[0], edges[-1]) == (0, tokens)
    assert lengths.min() >= 1
    assert lengths.max() - lengths.min() <= 1


def test_branch_with_the_same_data_is_the_same_timeline():
    data = data_of({"a": 0.7, "b": 0.3})
    trunk = Timeline.start(data)
    assert trunk.branch(37, data) == trunk
    assert trunk.branch(37, dataclasses.replace(data, max_epochs=9.0)) == trunk
    other = trunk.branch(37, data_of({"a": 0.5, "b": 0.5}))
    assert [segment.start_step for segment in other.segments] == [0, 37]
    assert other.branch(37, data) == trunk  # the segment that would begin there has read nothing
    assert other.branch(50, data).segments[:2] == other.segments


def test_consumed_counts_every_segment():
    a, b = task_named("a").name, task_named("b").name
    timeline = Timeline.start(data_of({"a": 3, "b": 1}, 16, 8)).branch(10, data_of({"b": 1}, 32, 4))
    assert timeline.consumed(10) == {a: 10 * 8 * 16 * 3 // 4, b: 10 * 8 * 16 // 4}
    assert timeline.consumed(13)[b] == 10 * 8 * 16 // 4 + 3 * 4 * 32
    assert timeline.tokens(13) == 10 * 8 * 16 + 3 * 4 * 32
    assert timeline.epochs(10, {a: 960, b: 640}) == {a: 1.0, b: 0.5}


@given(st.integers(0, 40), st.integers(1, 40))
def test_position_of_a_trunk_is_its_branches(step, more):
    trunk = Timeline.start(data_of({"a": 0.9, "b": 0.1}))
    branch = trunk.branch(step, data_of({"a": 0.5, "b": 0.5}, 32))
    branch.check_position(trunk.position(step))
    branch.check_position(branch.position(step + more))


@pytest.mark.parametrize(
    "data", [data_of({"a": 0.5, "b": 0.5}), data_of({"a": 0.9, "b": 0.1}, 32, 4), data_of({"a": 1})]
)
def test_position_under_other_data_is_an_error(data):
    saved = Timeline.start(data_of({"a": 0.9, "b": 0.1}, 16, 8)).position(100)
    with pytest.raises(UserError, match=r"step 100.*resume with the data it was trained on"):
        Timeline.start(data).check_position(saved)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (data_of({"a": -1.0}), "rate of 'a' is -1.0"),
        (data_of({"a": 0.0}), "no task with a rate above 0"),
        (data_of({"a": 1.0}, 0), "sequence_length is 0"),
        (dataclasses.replace(data_of({"a": 1.0}), mixture=data_of({"a": 1.0}).mixture * 2), "'a' is named twice"),
    ],
)
def test_data_without_meaning_is_an_error(data, message):
    with pytest.raises(UserError, match=message):
        Timeline.start(data)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9999), st.integers(1, 9999))
def test_longest_periods_are_found_quickly(x, y):
    segment = Segment(0, whole_shares({"a": x, "b": y, "c": 10**6 / 7}), 128, 64)
    assert segment.rows_before(10**9).sum() == 10**9
