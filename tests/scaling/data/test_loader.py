import gc
import threading
import time

import numpy as np
import pytest
from data_builders import data_of, streams_of, task_named
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaling.data.loader import Loader, check_budget
from scaling.data.timeline import Timeline
from scaling.errors import UserError

A, B = task_named("a").name, task_named("b").name
pytestmark = pytest.mark.usefixtures("many_lanes")


def inputs_by_lane(loader, stop):
    """Per source and lane, the inputs in the order of reading: row r of a source goes to lane r mod L."""
    rows = dict.fromkeys(loader.streams, 0)
    read = {name: [[] for _ in range(stream.lanes)] for name, stream in loader.streams.items()}
    first_tokens = {int(stream.shards.read(0)[0]) // 1_000_000: name for name, stream in loader.streams.items()}
    for step in range(stop):
        for row in loader.batch(step)["tokens"]:
            name = first_tokens[int(row[0]) // 1_000_000]
            read[name][rows[name] % loader.streams[name].lanes].extend(row[:-1].tolist())
            rows[name] += 1
    return read


def assert_reads_on(loader, stop):
    """Every lane was read from its beginning, without a gap and without a repeat."""
    for name, lanes in inputs_by_lane(loader, stop).items():
        stream = loader.streams[name]
        assert sum(map(len, lanes)) == loader.timeline.consumed(stop).get(name, 0)
        for lane, tokens in enumerate(lanes):
            assert tokens == stream.read(lane, 0, len(tokens))[0].tolist()


def test_first_epoch_holds_every_token_once_and_the_next_is_shuffled_anew():
    stream = streams_of({"a": 5000})[A]
    assert stream.lanes == 25
    epochs = []
    for epoch in (0, 1):
        lengths = np.diff(stream.edges)
        parts = [stream.read(lane, epoch * int(n), int(n))[0] for lane, n in enumerate(lengths)]
        epochs.append(np.concatenate(parts))
        assert sorted(epochs[-1].tolist()) == list(range(5000))
    assert (epochs[0] != epochs[1]).mean() > 0.9
    assert (streams_of({"a": 5000}, seed=1)[A].read(0, 0, 200)[0] != epochs[0][:200]).mean() > 0.9


def test_unique_tokens_are_counted():
    loader = Loader(streams_of({"a": 5000}), Timeline.start(data_of({"a": 1})))
    for stop, missed in ((1, 0), (20, 0), (36, 0), (38, 8), (39, 16), (45, 0), (60, 0)):
        inputs = np.concatenate([loader.batch(step)["tokens"][:, :-1].ravel() for step in range(stop)])
        assert 0 <= len(np.unique(inputs)) - loader.timeline.unique_tokens(stop, {A: 5000}) <= missed
    assert loader.timeline.unique_tokens(60, {A: 5000}) == 5000


def test_segments_tell_where_a_record_ends():
    loader = Loader(streams_of({"a": 5000}), Timeline.start(data_of({"a": 1}, 64, 16)))
    for step in range(6):
        batch = loader.batch(step)
        follows = np.diff(batch["tokens"], axis=1) == 1
        same = np.diff(batch["segments"], axis=1) == 0
        assert (follows | ~same).all()
        assert (follows & ~same).mean() < 0.01  # two records that lie end to end by chance
        assert (batch["segments"][:, 0] == 1).all()


def test_changed_mixture_repeats_and_skips_no_token():
    streams = streams_of({"a": 9000, "b": 9000})
    old, new, step = data_of({"a": 0.9, "b": 0.1}), data_of({"a": 0.5, "b": 0.5}), 33
    branch = Timeline.start(old).branch(step, new)
    assert_reads_on(Loader(streams, branch), 70)
    # What a pipeline does whose state is the number of rows read, restored under the new rates:
    trunk = inputs_by_lane(Loader(streams, Timeline.start(old)), step)
    naive = Timeline.start(new).consumed(step)
    assert naive[A] < sum(map(len, trunk[A]))  # goes back: repeats tokens of one source
    assert naive[B] > sum(map(len, trunk[B]))  # jumps ahead: skips tokens of the other


def test_changed_sequence_length_and_batch_size_repeat_and_skip_no_token():
    timeline = Timeline.start(data_of({"a": 1}, 16, 8)).branch(9, data_of({"a": 1}, 50, 3))
    loader = Loader(streams_of({"a": 9000}), timeline)
    assert loader.batch(8)["tokens"].shape == (8, 17)
    assert loader.batch(9)["tokens"].shape == (3, 51)
    assert_reads_on(loader, 40)


segment = st.tuples(
    st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.integers(1, 9)}),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(1, 12),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(segment, min_size=1, max_size=4))
def test_any_timeline_reads_every_lane_on(segments):
    step, timeline = 0, None
    for rates, sequence_length, batch_size, steps in segments:
        data = data_of(rates, sequence_length, batch_size)
        timeline = timeline.branch(step, data) if timeline else Timeline.start(data)
        step += steps
    assert_reads_on(Loader(streams_of({"a": 3000, "b": 700}), timeline), step)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_global_batch(hosts):
    loader = Loader(streams_of({"a": 5000, "b": 3000}), Timeline.start(data_of({"a": 0.7, "b": 0.3})))
    share = 8 // hosts
    for step in (0, 5, 77):
        parts = [loader.batch(step, slice(h * share, (h + 1) * share)) for h in range(hosts)]
        for key, whole in loader.batch(step).items():
            assert np.array_equal(np.concatenate([part[key] for part in parts]), whole)


def test_batch_is_a_pure_function_of_the_step():
    timeline = Timeline.start(data_of({"a": 0.7, "b": 0.3})).branch(20, data_of({"b": 1}))
    sizes = {"a": 5000, "b": 3000}
    forward = [Loader(streams_of(sizes), timeline).batch(step) for step in range(30)]
    loader = Loader(streams_of(sizes), timeline)
    for step in np.random.default_rng(0).permutation(30):
        for key, value in loader.batch(int(step)).items():
            assert np.array_equal(value, forward[step][key])


def test_step_a_million_is_where_arithmetic_puts_it():
    streams = streams_of({"a": 5000})
    loader = Loader(streams, Timeline.start(data_of({"a": 1}, 16, 8)))
    start = time.perf_counter()
    tokens = loader.batch(1_000_000)["tokens"]
    assert time.perf_counter() - start < 1
    turn, lane = divmod(8_000_000 + 5, streams[A].lanes)
    assert np.array_equal(tokens[5], streams[A].read(lane, turn * 16, 17)[0])


def test_iterate_stacks_the_batches_and_pads_the_last_of_a_segment():
    timeline = Timeline.start(data_of({"a": 1}, 16, 8)).branch(10, data_of({"a": 1}, 32, 4))
    loader = Loader(streams_of({"a": 5000}), timeline)
    stacks = list(loader.iterate(3, 17, stack=4))
    assert [(s.first_step, s.valid) for s in stacks] == [(3, 4), (7, 3), (10, 4), (14, 3)]
    for stack in stacks:
        for k in range(4):
            expected = loader.batch(stack.first_step + min(k, stack.valid - 1))
            for key, value in stack.batch.items():
                assert np.array_equal(value[k], expected[key])


def test_an_abandoned_iteration_leaves_no_thread():
    loader = Loader(streams_of({"a": 5000}), Timeline.start(data_of({"a": 1})))
    before = set(threading.enumerate())
    iteration = loader.iterate(0, 10_000, stack=2)
    next(iteration)
    iteration.close()
    gc.collect()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def test_more_tokens_than_the_corpus_has_is_an_error_that_says_how_many_epochs():
    streams = streams_of({"a": 5120, "b": 5120})
    timeline = Timeline.start(data_of({"a": 3, "b": 1}, 16, 8))
    check_budget(timeline, 53, streams, 1.0)
    with pytest.raises(UserError, match=r"5184 tokens .* has 5120.* 1\.01 epochs .*max_epochs to 1\.02 to allow"):
        check_budget(timeline, 54, streams, 1.0)
    check_budget(timeline, 54, streams, 1.02)


def test_a_source_without_shards_is_an_error():
    with pytest.raises(UserError, match=f"no shards opened for {B}"):
        Loader(streams_of({"a": 5000}), Timeline.start(data_of({"a": 1, "b": 1})))
