import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.fit_table import Source, fit_table, form_named
from scaling.errors import UserError
from scaling.laws import repetition
from scaling.laws.forms import CHINCHILLA, COMPUTE, DATA_CONSTRAINED


def csv_of_a_planted_study(path) -> None:
    n = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 3)
    d = n * np.tile([10, 30, 90], 5)
    noise = np.random.default_rng(0).normal(0, 1e-3, 15)
    loss = (1.8 + 400 / n**0.34 + 2000 / d**0.37) * np.exp(noise)
    pd.DataFrame({"params": n, "tokens": d, "final_loss": loss, "run": np.repeat(list("abcde"), 3)}).to_csv(
        path, index=False
    )


def test_a_csv_becomes_a_law_on_disk(tmp_path):
    csv_of_a_planted_study(tmp_path / "runs.csv")
    (tmp_path / "runs" / "mine").mkdir(parents=True)  # the default store of runs: not a place for a law
    text = io.StringIO()
    source = Source(tmp_path / "runs.csv")
    found = fit_table(source, CHINCHILLA, budgets=(1e22,), replicates=100, console=Console(file=text, width=160))
    assert found.fit.params["alpha"] == pytest.approx(0.34, abs=0.1)
    assert "column 'params' (guessed)" in text.getvalue()
    figures = {
        "points_and_law",
        "residuals",
        "bootstrap_clouds",
        "error_against_compute",
        "optimal_ratio",
        "allocation",
    }
    names = {"fit.json"} | {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert {path.name for path in (tmp_path / "runs-law").iterdir()} == names
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    first = json.loads((tmp_path / "runs-law" / "fit.json").read_text())
    again = tmp_path / "again"
    fit_table(
        source, CHINCHILLA, budgets=(1e22,), figures=False, replicates=100, out_dir=again, console=Console(quiet=True)
    )
    assert json.loads((again / "fit.json").read_text()) == first
    assert [path.name for path in again.iterdir()] == ["fit.json"]


def test_a_law_of_compute_alone_needs_no_sizes(tmp_path):
    flops = np.geomspace(1e17, 1e22, 12)
    loss = (1.7 + 3000 / flops**0.15) * np.exp(np.random.default_rng(0).normal(0, 1e-3, 12))
    pd.DataFrame({"flops": flops, "loss": loss}).to_csv(tmp_path / "runs.csv", index=False)
    text = io.StringIO()
    found = fit_table(Source(tmp_path / "runs.csv"), COMPUTE, replicates=100, console=Console(file=text, width=160))
    assert found.fit.params["alpha"] == pytest.approx(0.15, abs=0.03)
    assert not isinstance(found.holdouts["largest_c"], str)
    assert "this form says nothing on N and D" in text.getvalue()
    assert (tmp_path / "runs-law" / "points_and_law.png").is_file()


@pytest.mark.slow
def test_a_constrained_law_learns_what_repetition_is_worth(tmp_path):
    n, epochs = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), [0.25, 0.5, 1, 2, 4, 8, 16, 32]))
    unique = np.where(np.arange(len(n)) % 2, 2e9, 5e8)
    law = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "r_n": 5.3, "r_d": 15.4}
    loss = repetition.loss(law, n, epochs * unique, unique) * np.exp(np.random.default_rng(0).normal(0, 1e-3, len(n)))
    rows = {"params": n, "tokens": epochs * unique, "unique_tokens": unique, "loss": loss}
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    source = Source(tmp_path / "runs.csv", columns={"d_unique": "unique_tokens"})
    found = fit_table(source, DATA_CONSTRAINED, figures=False, replicates=100, console=Console(quiet=True))
    intervals = found.bootstrap.param_intervals()
    for name in ("r_n", "r_d"):
        low, high = intervals[name]
        assert low <= law[name] <= high
        assert high / low < 1.15
    assert found.holdout.mean_error < 3e-3


def test_an_unknown_form_names_the_known_ones():
    with pytest.raises(UserError, match=r"form 'astrology': one of chinchilla, kaplan"):
        form_named("astrology")
