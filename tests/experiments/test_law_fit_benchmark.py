import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from experiments.benchmarks import law_fit, law_fit_ours
from experiments.benchmarks import law_fit_scipy as peer
from scaling.errors import UserError
from scaling.laws import table

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(0)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 3e11, 6)))
    loss = LAW["E"] + LAW["A"] * n ** -LAW["alpha"] + LAW["B"] * d ** -LAW["beta"]
    file = tmp_path_factory.mktemp("table") / "points.csv"
    pd.DataFrame({"n": n, "d": d, "loss": loss * np.exp(rng.normal(0, 3e-3, len(n)))}).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def data(path):
    points = table.read_table(path)
    return peer.Data(np.log(points.columns["n"]), np.log(points.columns["d"]), np.log(points.loss))


def test_peer_gradient_is_that_of_its_objective(data):
    theta = np.array([6.0, 7.5, 0.6, 0.34, 0.36])
    numeric = optimize.approx_fprime(theta, peer.objective, 1e-7, data)
    assert peer.gradient(theta, data) == pytest.approx(numeric, rel=1e-4)


def test_peer_starts_from_the_published_grid():
    grid = peer.grid()
    assert (len(grid), len(np.unique(grid, axis=0))) == (4500, 4500)
    assert [sorted(set(column)) for column in grid.T] == [
        [0, 5, 10, 15, 20, 25],
        [0, 5, 10, 15, 20, 25],
        [-1, -0.5, 0, 0.5, 1],
        [0, 0.5, 1, 1.5, 2],
        [0, 0.5, 1, 1.5, 2],
    ]


def test_peer_bootstrap_fits_the_rows_it_is_given(data):
    every = np.arange(len(data.log_loss))
    (whole, again) = peer.replicates(np.stack([every, every]), data, analytic=True).objectives
    assert (
        whole
        == again
        == pytest.approx(min(peer.from_starts(peer.HOFFMANN[None], data, True, True).objectives), rel=0.02)
    )
    doubled = peer.replicates(np.concatenate([every, every])[None], data, analytic=True).objectives[0]
    assert doubled == pytest.approx(2 * whole, rel=0.02)


def test_both_engines_run_interleaved_and_agree(path):
    sizes = law_fit.Sizes(
        fit_starts=16, starts=32, replicates=20, restarts=4, peer_starts=12, peer_replicates=2, rounds=2
    )
    found = law_fit.interleaved(path, sizes)
    assert found["optimum"]["scipy"] == pytest.approx(found["optimum"]["ours"], rel=1e-6)
    assert {part: len(answers) for part, answers in found["ours"].items()} == {
        "fit": 2,
        "starts": 2,
        "bootstrap": 2,
        "restarts": 2,
    }
    assert found["ours"]["bootstrap"][0]["missed"] == found["ours"]["restarts"][0]["missed"] == 0
    assert found["first_fit_s"] > 3 * found["ours"]["fit"][-1]["seconds"]  # it compiles
    starts, drawn = found["peers"]["starts, analytic"], found["peers"]["replicates, analytic"]
    assert (starts["sampled"], starts["of"], drawn["sampled"], drawn["of"]) == (12, 4500, 2, 20)
    assert 0 < starts["one_process_s"] < found["peers"]["starts, finite differences"]["one_process_s"]
    assert found["exponentials_per_second"] > 1e7


def test_work_of_a_sample_is_scaled_to_the_whole():
    class Pool:
        def submit(self, work, share):
            class Done:
                def result(self):
                    return work(share)

            return Done()

    def work(share):
        return peer.Work([1.0 + item for item in share], 10 * len(share), 2.0 * len(share))

    one = law_fit.Peer(work, np.arange(100), sample=10, rounds=3)
    for index in range(3):
        one.round(index, Pool(), cores=2)
    figures = one.figures(optimum=1.0 + min(one.objectives))
    assert figures["one_process_s"] == 2.0 * 100
    assert (figures["evaluations_each"], figures["sampled"], figures["of"]) == (10, 10, 100)
    assert len(set(one.objectives)) == 10


def test_faster_means_the_peers_seconds_over_ours():
    alone = {"starts, finite differences": 75.0, "starts, analytic": 10.0}
    alone |= {"replicates, finite differences": 180.0, "replicates, analytic": 16.0}
    peers = {name: {"one_process_s": s, "all_cores_s": s / 2} for name, s in alone.items()}
    ours = {"fit": [0.05], "starts": [0.4, 0.5, 9.0], "bootstrap": [4.0], "restarts": [25.0]}
    measured = {"ours": {part: [{"seconds": s} for s in taken] for part, taken in ours.items()}, "peers": peers}
    parts = law_fit.summarise(measured, replicates=4000)
    assert parts["starts"]["seconds"] == 0.5
    assert parts["starts"]["times_faster"]["finite differences"] == {"one_process_s": 150.0, "all_cores_s": 75.0}
    assert parts["bootstrap"]["times_faster"]["analytic"]["one_process_s"] == 4.0
    assert parts["restarts"]["peer"]["analytic"]["all_cores_s"] == 4000 * 5.0


def test_engines_that_disagree_are_no_benchmark():
    with pytest.raises(UserError, match="disagree about the optimum: ours 2, scipy's 1"):
        law_fit.same_optimum(ours=2.0, theirs=1.0)
    law_fit.same_optimum(ours=1.0, theirs=1.0 + 1e-7)


def test_restarts_would_see_a_warm_start_that_missed(path, monkeypatch):
    points = table.read_table(path)
    assert law_fit_ours.restarts(points, 20, 8)["missed"] == 0
    solve = law_fit_ours.solver.solve

    def stuck(form, data, theta, delta):  # warm starts, which are all alike, stay where they are
        end, value = solve(form, data, theta, delta)
        return end, value * (1 + (np.ptp(theta, axis=0).max() == 0))

    monkeypatch.setattr(law_fit_ours.solver, "solve", stuck)
    assert law_fit_ours.restarts(points, 20, 8)["missed"] == 20


@pytest.mark.slow
def test_command_is_timed_cold_and_warm(path):
    timed = law_fit.commands(path, repeats=1)
    for run in timed.values():
        assert 0 < run["fitting_after"] < run["seconds"]


def test_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no table at .*absent.csv: --table takes Epoch's"):
        law_fit.main(table=tmp_path / "absent.csv")
