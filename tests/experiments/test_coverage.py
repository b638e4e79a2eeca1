import dataclasses
import inspect
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from experiments.simulations import coverage
from scaling.errors import UserError
from scaling.laws import fit as fitting
from scaling.laws import uncertainty
from scaling.laws.forms import CHINCHILLA


@pytest.fixture(scope="module")
def quickstart():
    return coverage.quickstart()


def test_quickstart_is_the_recorded_design(quickstart):
    assert (len(quickstart.points), len(set(quickstart.points.cluster))) == (35, 8)
    assert quickstart.law == pytest.approx(
        {"E": 0.7201, "A": 30.21, "B": 31.77, "alpha": 0.4386, "beta": 0.2819}, rel=1e-3
    )
    # errors as large as those of the points the law was fitted to
    assert quickstart.error == pytest.approx(0.012, rel=0.1)


def test_chinchilla_has_its_ranges_with_and_without_the_table():
    made_up = coverage.chinchilla(None)
    assert 150 < len(made_up.points) < 300
    assert len(set(made_up.points.cluster)) >= 30
    assert made_up.law["alpha"] == pytest.approx(0.3473, rel=1e-6)


@pytest.mark.parametrize("freedom", [np.inf, 6.0])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0])
def test_errors_have_the_asked_size_and_split(quickstart, ratio, freedom):
    design = dataclasses.replace(quickstart, freedom=freedom)
    drawn = [design.study(ratio, seed) for seed in range(1500)]
    error_SN = np.log([points.loss for points, _ in drawn]) - np.log(design.points.loss)
    assert error_SN.std() == pytest.approx(design.error, rel=0.04)
    cluster = design.points.cluster
    i, j = (int(np.flatnonzero(cluster == cluster[0])[k]) for k in (0, 1))
    other = int(np.flatnonzero(cluster != cluster[0])[0])
    shared = ratio**2 / (1 + ratio**2)  # of the variance
    assert np.corrcoef(error_SN[:, i], error_SN[:, j])[0, 1] == pytest.approx(shared, abs=0.1)
    assert np.corrcoef(error_SN[:, i], error_SN[:, other])[0, 1] == pytest.approx(0.0, abs=0.1)
    # new runs scatter about the law as much, each independent of the others
    new_SK = np.log([new for _, new in drawn]) - np.log(CHINCHILLA.predict(design.law, design.target))
    assert new_SK.std() == pytest.approx(design.error, rel=0.04)
    assert new_SK.mean(1).std() == pytest.approx(design.error / np.sqrt(coverage.NEW_RUNS), rel=0.1)


def test_answers_are_those_of_the_closed_form(quickstart):
    law, flops = quickstart.law, 10 * quickstart.points.budgets.max()
    found = coverage.answers(quickstart, law)
    n = np.geomspace(1e4, 1e8, 200_001)
    best = n[np.argmin(CHINCHILLA.predict(law, {"n": n, "d": flops / 6 / n}))]
    assert found["log10 D/N"] == pytest.approx(np.log10(flops / 6 / best**2), abs=1e-3)
    assert found["a"] == pytest.approx(law["beta"] / (law["alpha"] + law["beta"]))
    target = quickstart.target
    loss = law["E"] + law["A"] * target["n"] ** -law["alpha"] + law["B"] * target["d"] ** -law["beta"]
    assert found["log loss"] == pytest.approx(np.log(loss))


def test_an_interval_is_judged_by_whether_it_holds_the_truth(quickstart):
    points, _ = quickstart.study(1.0, seed=0)
    fit = fitting.fit(CHINCHILLA, points)
    drawn = uncertainty.bootstrap(fit, replicates=100, audit_share=0.0)
    # replicates that are the truth up to 1 percent either way, and replicates that are far off
    spread = np.linspace(0.99, 1.01, 201)
    near = dataclasses.replace(drawn, params={k: v * spread for k, v in quickstart.law.items()})
    off = dataclasses.replace(drawn, params=near.params | {"beta": 1.5 * near.params["beta"]})
    truth = float(CHINCHILLA.predict(quickstart.law, quickstart.target))
    inside, outside = np.full(100, truth), np.full(100, 2 * truth)
    half = np.concatenate([inside, outside])
    found = coverage.judge(quickstart, near, half)
    # a does not change under a common factor: its interval is a point, at the truth up to rounding
    assert (found["log10 D/N"][0], found["log loss"][0], found["new run"][0]) == (1.0, 1.0, 0.5)
    assert found["log loss"][1] > 0
    missed = coverage.judge(quickstart, off, half)
    assert (missed["a"][0], missed["log10 D/N"][0], missed["log loss"][0]) == (0.0, 0.0, 0.0)


def test_rows_are_means_with_the_binomial_error():
    def study(hit, label):
        judged = {"a": (hit, 2.0), "new run": (0.9, 1.0)}
        return {"method": "wild", "clusters": 8, "label": label, "by cluster": judged, "by point": judged}

    hits = [1.0] * 75 + [0.0] * 25
    row = coverage.summarise([study(hit, "indicative" if i < 10 else "fine") for i, hit in enumerate(hits)])
    assert row["by cluster"]["a"]["coverage"] == 0.75
    assert row["by cluster"]["a"]["standard_error"] == pytest.approx(np.sqrt(0.75 * 0.25 / 99))
    assert row["by point"]["a"]["width"] == 2.0
    assert row["labels"] == {"fine": 0.9, "indicative": 0.1}


def test_studies_do_not_depend_on_how_they_are_shared_out(quickstart, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK", 2)
    with ThreadPoolExecutor(2) as pool:
        row = coverage.measure(quickstart, 3.0, "auto", replicates=50, studies=3, seed=5, pool=pool)
    alone = [
        study for seed in (5, 6, 7) for study in coverage.simulate(quickstart, 3.0, "auto", 50, range(seed, seed + 1))
    ]
    assert row == {"design": "quickstart", "trunk_to_point": 3.0} | coverage.summarise(alone)
    assert row["method"] == "components"


def test_the_command_in_the_docstring_makes_the_record():
    """Seed and splits of the noise are those recorded; the table's name is all that is left to say."""
    record = json.loads((Path(coverage.HERE).parents[1] / "analysis/results/coverage/coverage.json").read_text())
    defaults = inspect.signature(coverage.main).parameters
    assert f"--seed {record['seed']}`" in (coverage.__doc__ or "")
    ratios = defaults["trunk_to_point"].default
    assert [row["trunk_to_point"] for row in record["rows"]] == [*ratios, *ratios]
    assert record["replicates"] == defaults["replicates"].default
    assert {row["studies"] for row in record["rows"]} == {defaults["studies"].default}


def test_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no table at .*absent.csv: --table takes Epoch's"):
        coverage.main(table=tmp_path / "absent.csv")


@pytest.mark.slow
def test_independence_of_points_that_share_a_trunk_is_paid_for_in_coverage(quickstart):
    found = coverage.summarise(coverage.simulate(quickstart, 3.0, "auto", 200, range(150)))
    by_cluster, by_point = found["by cluster"]["log loss"], found["by point"]["log loss"]
    assert by_point["coverage"] < 0.83
    assert by_cluster["coverage"] > by_point["coverage"]
