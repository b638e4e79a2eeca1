import dataclasses

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.laws import envelope, table
from scaling.laws.forms import CHINCHILLA

LAW = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
A = LAW["beta"] / (LAW["alpha"] + LAW["beta"])


def n_opt(flops: float) -> float:
    assert CHINCHILLA.optimum is not None
    return float(CHINCHILLA.optimum(LAW, flops)["n"])


def make(n: np.ndarray, d: np.ndarray, cluster: np.ndarray, factor: np.ndarray | float = 1.0) -> table.Table:
    columns = {"n": n, "d": d, "flops": 6 * n * d}
    return table.Table(columns, CHINCHILLA.predict(LAW, columns) * factor, cluster.astype(str), {})


def ladder(noise: float = 0.0, seed: int = 0) -> table.Table:
    """Twelve trunks with branch ends at eight token counts each."""
    rng = np.random.default_rng(seed)
    trunk = np.repeat(np.arange(12), 8)
    n = np.geomspace(1e8, 1e10, 12)[trunk]
    ratio = np.tile(np.geomspace(2.5, 400, 8), 12) * np.exp(rng.uniform(0, 0.5, 12))[trunk]
    return make(n, ratio * n, trunk, np.exp(rng.normal(0, noise, 96)))


def test_a_planted_law_is_recovered_from_branch_ends():
    found = envelope.fit(ladder(), replicates=20)
    assert found.line.a == pytest.approx(A, abs=0.006)
    assert found.line.n(1e21) == pytest.approx(n_opt(1e21), rel=0.03)
    optimal = CHINCHILLA.predict(LAW, CHINCHILLA.optimum(LAW, found.budgets))
    assert np.all(found.loss > optimal * 0.999)  # nothing lies below the best that the law allows
    assert np.all(found.loss < optimal * 1.01)


def test_noise_does_not_flatten_the_line():
    """Budgets that judge themselves give a smaller by 0.05 here: at the edges noise lets in what it moved inwards."""
    a = [envelope.fit(ladder(0.005, seed), replicates=1).line.a for seed in range(40)]
    assert np.mean(a) == pytest.approx(A, abs=3 * np.std(a) / np.sqrt(40))
    assert np.std(a) / np.sqrt(40) < 0.01


def test_trunks_are_not_taken_for_training_curves():
    """Not for their seeds, branched alike, nor for one of them that went on; and points of no cluster are no curves."""
    once, seeds = ladder(), ladder(0.003)
    assert envelope.curves_of(once) == "size"
    both = dataclasses.replace(
        once,
        columns={name: np.tile(values, 2) for name, values in once.columns.items()},
        loss=np.concatenate([once.loss, seeds.loss]),
        cluster=np.concatenate([once.cluster, np.char.add("s", once.cluster.astype(str))]),
    )
    assert envelope.curves_of(both) == "size"
    longer = both.columns["d"] * np.where(np.arange(192) == 191, 2.0, 1.0)
    assert envelope.curves_of(dataclasses.replace(both, columns=both.columns | {"d": longer})) == "size"
    alone = dataclasses.replace(both, cluster=np.arange(192).astype(str))
    assert envelope.curves_of(alone) == "size"


def test_what_is_left_out_is_counted():
    found = envelope.fit(ladder(), replicates=1)
    assert len(found.budgets) + found.alone + found.edge == envelope.BUDGETS
    c_12x8 = ladder().budgets.reshape(12, 8)
    grid = np.geomspace(c_12x8.min(), c_12x8.max(), envelope.BUDGETS)
    reached = (c_12x8[:, :1] <= grid * (1 + 1e-9)) & (grid <= c_12x8[:, -1:] * (1 + 1e-9))
    assert found.alone == np.sum(reached.sum(0) < 2) > 0
    sizes, best = np.unique(ladder().columns["n"]), np.array([n_opt(c) for c in found.budgets])
    assert best.min() > sizes[0] * 1.4
    assert best.max() < sizes[-1] / 1.4


def test_training_curves_of_several_horizons():
    """Cosine runs are 3% above their end's loss when they start, so only runs near their end may be on the envelope."""
    sizes, horizons = np.geomspace(1e8, 1e10, 12), np.array([4.0, 12.0, 36.0, 108.0, 324.0])
    rows = [(run, n, h, p) for run, (n, h) in enumerate((n, h) for n in sizes for h in horizons)
            for p in np.geomspace(0.05, 1, 40)]  # fmt: skip
    run, n, horizon, progress = np.array(rows).T
    points = make(n, n * horizon * progress, run, 1 + 0.03 * (1 - progress))
    found = envelope.fit(points, replicates=10)
    assert found.of == "run"
    assert found.line.a == pytest.approx(A, abs=0.03)
    assert found.line.n(1e21) == pytest.approx(n_opt(1e21), rel=0.25)
    per_size = envelope.fit(points, of="size", replicates=1)  # averages horizons: lies above the envelope of runs
    shared = np.isin(found.budgets, per_size.budgets)
    assert np.mean(np.interp(found.budgets[shared], per_size.budgets, per_size.loss) - found.loss[shared]) > 0


def test_intervals_hold_the_exponent_and_count_failures():
    found = envelope.fit(ladder(0.003), replicates=100)
    low, high = found.line.interval(found.line.a_replicates)
    assert low < A < high
    assert found.line.failed < 100
    again = envelope.fit(ladder(0.003), replicates=100)
    assert np.array_equal(again.line.a_replicates, found.line.a_replicates, equal_nan=True)


def test_seeds_of_one_size_are_averaged_and_not_raced():
    """Two seeds 1% apart are one curve between them: the least of several would favour sizes with many seeds."""
    one, off = ladder(), ladder()
    off = dataclasses.replace(off, cluster=np.char.add(off.cluster, "b"), loss=off.loss * 1.01)
    both = table.Table(
        {name: np.concatenate([one.columns[name], off.columns[name]]) for name in one.columns},
        np.concatenate([one.loss, off.loss]),
        np.concatenate([one.cluster, off.cluster]),
        {},
    )
    found, single = envelope.fit(both, replicates=1), envelope.fit(one, replicates=1)
    assert found.loss == pytest.approx(single.loss * np.sqrt(1.01), rel=1e-9)


def test_a_study_whose_sizes_do_not_compete_is_refused_in_a_sentence(ladder):
    with pytest.raises(UserError, match="ranges of 6 N D overlap more"):
        envelope.fit(ladder())
    n = np.geomspace(1e8, 1e9, 6)
    with pytest.raises(UserError, match="several token counts"):
        envelope.fit(make(n, 20 * n, np.arange(6)))


def test_epochs_points(epoch):
    found = envelope.fit(epoch, replicates=100)
    low, high = found.line.interval(found.line.a_replicates)
    assert found.line.a == pytest.approx(0.50, abs=0.01)  # Hoffmann et al., table 2: 0.50
    assert low < 0.4875
    assert high > 0.5139
