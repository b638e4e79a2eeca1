import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.fit_table import fit_table
from scaling.errors import UserError


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
    found = fit_table(tmp_path / "runs.csv", budgets=(1e22,), replicates=100, console=Console(file=text, width=160))
    assert found.fit.params["alpha"] == pytest.approx(0.34, abs=0.1)
    assert "column 'params' (guessed)" in text.getvalue()
    names = {"fit.json", "points_and_law.png", "points_and_law.pdf", "optimal_ratio.png", "optimal_ratio.pdf"}
    assert {path.name for path in (tmp_path / "runs-law").iterdir()} == names
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    first = json.loads((tmp_path / "runs-law" / "fit.json").read_text())
    fit_table(
        tmp_path / "runs.csv",
        budgets=(1e22,),
        replicates=100,
        out_dir=tmp_path / "again",
        console=Console(file=io.StringIO()),
    )
    assert json.loads((tmp_path / "again" / "fit.json").read_text()) == first


def test_an_unknown_form_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"form 'kaplan': one of chinchilla"):
        fit_table(tmp_path / "runs.csv", form="kaplan")
