"""The commands about laws from the command line: what they print, write and refuse."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from experiments import cli
from scaling.laws import repetition
from scaling.laws.forms import CHINCHILLA, FORMS

LAW = {"E": 1.7, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36}
QUICK = ("--no-figures", "--replicates", 100, "--starts", 16)


def planted() -> pd.DataFrame:
    n, ratio = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), [5.0, 20.0, 80.0, 320.0]))
    noise = np.exp(np.random.default_rng(0).normal(0, 3e-3, len(n)))
    return pd.DataFrame({"n": n, "d": n * ratio, "loss": CHINCHILLA.predict(LAW, {"n": n, "d": n * ratio}) * noise})


def command(patch, capture, *words):
    """Runs a command line in this process; returns exit code, standard output and standard error."""
    patch.setenv("WINDTUNNEL_ENVIRONMENT", "1")  # do not start this process anew
    patch.setattr(sys, "argv", ["windtunnel", *map(str, words)])
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    printed = capture.readouterr()
    return code, " ".join(printed.out.split()), printed.err


@pytest.fixture
def windtunnel(monkeypatch, capsys):
    return lambda *words: command(monkeypatch, capsys, *words)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A file of points."""
    path = tmp_path_factory.mktemp("points") / "runs.csv"
    planted().to_csv(path, index=False)
    return path


def saved_json(path, form, params, ranges):
    """A fit.json of a form, its replicates a tenth of a percent around the parameters."""
    rng = np.random.default_rng(0)
    data = {
        "form": form,
        "params": params,
        "replicates": {name: list(value * np.exp(rng.normal(0, 1e-3, 100))) for name, value in params.items()},
        "errors": [-1e-3, 0.0, 1e-3],
        "range": ranges,
        "level": 0.9,
        "bootstrap": {"clusters": 20, "freedom": 15},
        "certificate": {"identified": True},
        "bytes_per_token": 4.0,
        "conventions": {
            "n": "column 'params'",
            "budget": "C = 6 N D",
            "bytes_per_token": "4 (assumed, as Chinchilla's)",
        },
    }
    assert set(params) == set(FORMS[form].params)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def law(tmp_path):
    ranges = {"n": [1e7, 1e9], "d": [5e7, 3.2e11], "budget": [3e15, 1.92e21]}
    return saved_json(tmp_path / "fit.json", "chinchilla", LAW, ranges)


@pytest.fixture
def law_of_repetition(tmp_path):
    ranges = {"n": [1e7, 1e9], "d": [5e7, 3.2e11], "budget": [3e15, 1.92e21]}
    return saved_json(tmp_path / "fit.json", "data_constrained", LAW | {"r_n": 5.3, "r_d": 15.4}, ranges)


@pytest.fixture
def law_of_compute(tmp_path):
    params = {"E": 1.7, "A": 2000.0, "alpha": 0.17}
    return saved_json(tmp_path / "fit.json", "compute", params, {"flops": [1e17, 1e22]})


def refused(answer, sentence):
    """One line of words, exit code 2."""
    code, _, error = answer
    assert error.startswith("windtunnel: ")
    assert sentence in error
    assert (code, error.count("\n")) == (2, 1)


def test_fit_writes_a_law_that_predict_and_allocate_read(windtunnel, points, tmp_path):
    code, out, _ = windtunnel("fit", points, *QUICK, "--fix", "E=1.7", "--budget", 1e22, "--out-dir", tmp_path / "law")
    assert code == 0
    assert "20 points of" in out
    assert "n: column 'n' (guessed) d: column" in out
    assert "E 1.7 held" in out
    assert [path.name for path in (tmp_path / "law").iterdir()] == ["fit.json"]
    fitted = json.loads((tmp_path / "law" / "fit.json").read_text())
    assert fitted["params"]["E"] == 1.7
    assert fitted["params"]["alpha"] == pytest.approx(LAW["alpha"], rel=0.03)
    code, out, _ = windtunnel("predict", tmp_path / "law" / "fit.json", "--n", 1e9, "--d", 2e10)
    expected = float(CHINCHILLA.predict(fitted["params"], {"n": 1e9, "d": 2e10}))
    assert (code, out.split()[0]) == (0, f"{expected:.4f}")
    code, out, _ = windtunnel("allocate", tmp_path / "law" / "fit.json", "--budget", 1e22)
    n = fitted["allocation"][0]["n"]
    assert (code, f"{n / 1e9:.3g}B" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--loss", "los"), "--loss 'los': no such column; columns are 'n', 'd', 'loss'"),
        (("--fix", "Z=1"), "'Z' is no parameter of 'chinchilla': it has E, A, B, alpha, beta"),
        (("--seed", -1), "--seed -1: a whole number from 0 on"),
        (("--form", "chinchila"), "form 'chinchila': one of chinchilla, kaplan"),
    ],
)
def test_fit_refuses_in_one_line(windtunnel, points, words, sentence):
    refused(windtunnel("fit", points, *QUICK, *words), sentence)


def test_fit_refuses_an_output_folder_that_is_a_file_before_it_fits(windtunnel, points):
    answer = windtunnel("fit", points, *QUICK, "--out-dir", points / "law")
    refused(answer, "runs.csv is a file: name another with --out-dir")
    assert answer[1] == ""


@pytest.mark.parametrize("words", [("predict", "--n", 1e8, "--d", 2e9), ("allocate", "--budget", 1e20)])
def test_a_saved_law_says_what_its_numbers_count(windtunnel, law, words):
    code, out, _ = windtunnel(words[0], law, *words[1:])
    assert code == 0
    assert "N: column 'params'; budget: C = 6 N D; bytes per token: 4 (assumed, as Chinchilla's)" in out


def test_flops_named_by_hand_are_what_fit_and_allocate_count(windtunnel, tmp_path):
    """C three times 6 N D moves no law and no split: a budget just buys a third. A guessed column changes nothing."""
    frame = planted()
    frame["flops"] = 18 * frame["n"] * frame["d"]
    frame.to_csv(tmp_path / "runs.csv", index=False)
    found = {}
    for name, words in (("guessed", ()), ("named", ("--flops", "flops"))):
        out_dir = tmp_path / name
        _, out, _ = windtunnel("fit", tmp_path / "runs.csv", *QUICK, *words, "--budget", 3e21, "--out-dir", out_dir)
        data = json.loads((out_dir / "fit.json").read_text())
        found[name] = data["allocation"][0]["n"] * data["allocation"][0]["d"]
        _, again, _ = windtunnel("allocate", out_dir / "fit.json", "--budget", 3e21)
        assert f"{data['allocation'][0]['n'] / 1e9:.3g}B" in again
        says = "C = 6 N D with this N" if name == "guessed" else "C as column 'flops' counts it"
        assert f"budget: {says}" in out
        assert f"budget: {says}" in again
    assert found["named"] == pytest.approx(found["guessed"] / 3, rel=1e-6)


def test_predict_warns_outside_the_points(windtunnel, law):
    code, out, _ = windtunnel("predict", law, "--n", 1e11, "--d", 2e11)
    assert code == 0
    assert out.startswith(f"{float(CHINCHILLA.predict(LAW, {'n': 1e11, 'd': 2e11})):.4f} predicted")
    assert "N = 1e+11 is 2 orders of magnitude above the points fitted (1e+07 to 1e+09)" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--n", 7e9), "reads n, d: d not given"),
        (("--n", 1e9, "--d", 1e9, "--column", "p_w=4"), "'chinchilla' reads n, d: not p_w"),
        (("--n", -1, "--d", 1e9), "n = -1.0: a positive, finite number"),
    ],
)
def test_predict_refuses_in_one_line(windtunnel, law, words, sentence):
    refused(windtunnel("predict", law, *words), sentence)


@pytest.mark.parametrize("d_unique", [1e8, 4e9, 1e12])  # ten epochs, one, and more than is ever seen
def test_predict_derives_the_size_that_unique_tokens_deserve(windtunnel, law_of_repetition, d_unique):
    params = json.loads(law_of_repetition.read_text())["params"]
    code, out, _ = windtunnel("predict", law_of_repetition, "--n", 1e9, "--d", 4e9, "--column", f"d_unique={d_unique}")
    expected = repetition.loss(params, 1e9, 4e9, d_unique)
    assert (code, out.split()[0]) == (0, f"{expected:.4f}")


def test_allocate_spends_on_repeated_data_as_the_law_says(windtunnel, law_of_repetition):
    params = json.loads(law_of_repetition.read_text())["params"]
    code, out, _ = windtunnel("allocate", law_of_repetition, "--budget", 1e22, "--column", "d_unique=1e10")
    best = repetition.optimum(params, 1e22, 1e10)
    assert (code, f"{best['n'] / 1e9:.3g}B" in out) == (0, True)


def test_allocate_reaches_a_loss_and_pays_for_serving(windtunnel, law):
    code, out, _ = windtunnel("allocate", law, "--loss", 2.5, "--inference-tokens", 1e12)
    assert code == 0
    assert "loss 2.5 for" in out
    assert "less, with serving, than the model that is optimal for training alone" in out
    assert "2.5000" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "give either --budget, one or several in FLOPs, or --loss"),
        (("--budget", 0), "budget 0.0: FLOPs must be a positive, finite number"),
        (("--loss", -1), "loss -1: a positive, finite number to reach"),
        (("--loss", 1000), "loss 1000: any run is below it, even one of 1.9e+06 FLOPs: ask for less than"),
        (("--budget", 1e22, "--column", "n=1e9"), "n: what a budget is spent on is the answer"),
    ],
)
def test_allocate_refuses_in_one_line(windtunnel, law, words, sentence):
    refused(windtunnel("allocate", law, *words), sentence)


@pytest.mark.parametrize("words", [("--budget", 1e22), ("--loss", 2.0)])
def test_a_law_of_compute_has_nothing_to_split(windtunnel, law_of_compute, words):
    refused(windtunnel("allocate", law_of_compute, *words), "'compute'")


def test_allocate_names_what_is_left_to_settle(windtunnel, law_of_repetition):
    answer = windtunnel("allocate", law_of_repetition, "--budget", 1e22)
    refused(answer, "also reads d_unique: settle it with --column d_unique=VALUE")


def test_suggest_writes_runs_within_the_budget(windtunnel, points, tmp_path):
    folder = tmp_path / "next"
    words = ("--budget", 1e20, "--replicates", 100, "--most-runs", 2, "--out-dir", folder)
    code, out, _ = windtunnel("suggest", points, *words)
    assert code == 0
    assert "Runs worth 1e+20 FLOPs" in out
    found = json.loads((folder / "suggestion.json").read_text())
    assert 0 < sum(run["flops"] for run in found["runs"]) <= 1e20
    assert found["runs"][-1]["half_width"] < found["half_width"]
    assert {path.name for path in folder.iterdir()} == {f"suggestion.{kind}" for kind in ("json", "png", "pdf")}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--budget", 1e3, "--replicates", 100), "buys no run: the cheapest candidate"),
        (("--budget", 1e20, "--seed", -1), "--seed -1: a whole number from 0 on"),
        (("--budget", 1e20, "--replicates", 5), "5 replicates: an interval's ends need at least 100"),
        (("--budget", 1e20, "--target-n", 7e9), "--target-n and --target-d are for --answer loss"),
        (("--budget", 1e20, "--answer", "loss", "--at", 1e22), "--at 1e+22 is for --answer exponent and ratio"),
        (("--budget", 1e20, "--answer", "loss", "--target-d", 1e9), "here not given: name it with --target-n"),
        (("--budget", 1e20, "--form", "compute"), "'compute' has columns flops: spending needs n and d"),
    ],
)
def test_suggest_refuses_in_one_line(windtunnel, points, words, sentence):
    refused(windtunnel("suggest", points, *words), sentence)
