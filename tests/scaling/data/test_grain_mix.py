"""Why the data order is our own: a restored grain mix repeats and skips samples when rates change, ours does not."""

from collections import Counter

import grain
import numpy as np
from data_builders import data_of, streams_of

from scaling.data.loader import Loader
from scaling.data.timeline import Timeline

SIZE, BEFORE, AFTER = 4000, 400, 400
OLD, NEW = {"a": 0.9, "b": 0.1}, {"a": 0.5, "b": 0.5}


def lost_and_repeated(first, second):
    """Per source, samples of the second part that the first had too, and samples before the last one never seen."""
    found = {}
    for source in "ab":
        seen = Counter(first[source]) + Counter(second[source])
        repeated = sum(count - 1 for count in seen.values())
        found[source] = repeated, max(seen) + 1 - len(seen)
    return found


def test_a_plain_grain_mix_repeats_and_skips_at_a_change_of_rates():
    def iterator(rates):
        sources = [grain.MapDataset.source([(name, i) for i in range(SIZE)]) for name in rates]
        return iter(grain.MapDataset.mix(sources, list(rates.values())).to_iter_dataset())

    def take(samples, count):
        found = {"a": [], "b": []}
        for name, i in (next(samples) for _ in range(count)):
            found[name].append(i)
        return found

    trunk = iterator(OLD)
    first = take(trunk, BEFORE)
    branch = iterator(NEW)
    branch.set_state(trunk.get_state())
    (a_repeated, a_skipped), (b_repeated, b_skipped) = lost_and_repeated(first, take(branch, AFTER)).values()
    assert a_repeated > 100  # it goes back in the source whose rate fell
    assert b_skipped > 100  # and jumps ahead in the one whose rate rose
    assert (a_skipped, b_repeated) == (0, 0)


def test_ours_neither_repeats_nor_skips():
    old, new = data_of(OLD, sequence_length=1, batch_size=8), data_of(NEW, sequence_length=1, batch_size=8)
    step = BEFORE // 8
    timeline = Timeline.start(old).branch(step, new)
    streams = streams_of({"a": SIZE, "b": SIZE})
    loader = Loader(streams, timeline)
    inputs = [loader.batch(s)["tokens"][:, 0] for s in range(step + AFTER // 8)]
    read = np.concatenate(inputs)
    for number, name in enumerate("ab"):
        mine = read[read // 1_000_000 == number]
        rows = timeline.consumed(len(inputs))[name]
        assert len(mine) == len(set(mine.tolist())) == rows  # none twice
        # none left out: the same rows in one go, without a change of rates, are the same samples
        alone = Loader(streams, Timeline.start(data_of({name: 1}, sequence_length=1, batch_size=1)))
        assert set(mine.tolist()) == {int(alone.batch(s)["tokens"][0, 0]) for s in range(rows)}
