import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import show_law
from scaling.laws import conventions, counting, report
from scaling.laws.forms import CHINCHILLA
from scaling.laws.table import Table


def study(sizes: list[float], noise: float = 2e-3) -> Table:
    n = np.repeat(sizes, 4)
    d = n * np.tile([20, 40, 60, 80], len(sizes))
    law = {"E": 1.2, "A": 60.0, "B": 250.0, "alpha": 0.40, "beta": 0.38}
    loss = CHINCHILLA.predict(law, {"n": n, "d": d}) * np.exp(np.random.default_rng(0).normal(0, noise, len(n)))
    trunk = np.repeat(np.arange(len(sizes)), 4).astype(str)
    return Table({"n": n, "d": d, "flops": 6 * n * d}, loss, trunk, {"n": "column 'N'"})


def printed(found: report.Report) -> str:
    text = io.StringIO()
    show_law.show(found, Console(file=text, width=240))
    return text.getvalue()


def test_the_printed_report_answers_the_question():
    points = study([12e3, 24e3, 47e3, 95e3, 190e3, 24e3])
    found = report.analyse(
        points, budgets=(1e14, 1e21), bytes_per_token=1.0, n_means="non-embedding parameters", replicates=100
    )
    text = printed(found)
    assert f"mean error {found.holdout.mean_error:.2%}" in text
    assert "90% interval, indicative (6 clusters)" in text
    assert "90% prediction interval, indicative (5 clusters)" in text
    row = found.allocations[1]
    assert f"{row.tokens_per_parameter:.3g} +{row.extrapolation:.1f}" in text
    refit = next(c for c in found.comparisons if c.name == "Chinchilla (our refit)" and c.flops == row.flops)
    assert f"{refit.bytes_per_parameter:.3g} bytes" in text


def test_every_law_that_is_compared_says_whose_tokens_and_which_parameters_it_counts():
    found = report.analyse(study([12e3, 24e3, 47e3, 95e3, 190e3]), n_means="non-embedding parameters", replicates=100)
    lines = {line.partition(":")[0].strip("- "): line for line in printed(found).splitlines() if "; N: " in line}
    assert "assumed, as Chinchilla's" in lines["this law"]
    assert "column 'N', non-embedding parameters" in lines["this law"]
    assert "4.48 bytes per token (assumed" in lines["Chinchilla (Hoffmann)"]
    assert "N: all parameters" in lines["Chinchilla (Hoffmann)"]
    assert "not published: our refit" in lines["Chinchilla (our refit)"]
    assert "3.40 bytes per token" in lines["MiniCPM (average)"]
    assert "assumed to be meant at C = 1e21" in lines["MiniCPM (average)"]
    assert "N: non-embedding parameters" in lines["MiniCPM (average)"]


def test_what_leaves_serving_out_says_so():
    points = study([12e3, 24e3, 47e3, 95e3, 190e3])
    columns = {"N": points.columns["n"], "N_total": points.columns["n"] + 4000.0, "D": points.columns["d"]}
    frame = pd.DataFrame(columns | {"loss": points.loss, "trunk": points.cluster})
    alternatives = conventions.alternatives(frame)
    for tokens in (0.0, 1e9):
        found = report.analyse(points, inference_tokens=tokens, alternatives=alternatives, replicates=100)
        text = " ".join(printed(found).split())  # a title is as wide as its table
        for where in ("(D/N in tokens", "C^a", "times the largest run (90% interval, indicative (5 clusters)"):
            assert (f"{where}, training alone" in text) == (tokens > 0)


def test_the_price_of_a_good_prediction_is_named_and_a_missing_line_is_not_silent():
    found = report.analyse(study([12e3, 24e3, 47e3, 95e3, 190e3], noise=1e-4), replicates=100)
    enough = found.error_against_compute.spent_for(0.01)
    text = printed(found)
    assert f"from {enough:.2g} on within 1%" in text
    assert "by FLOPs fitted on (6 N D, every point in full): " in text
    none = printed(dataclasses.replace(found, error_against_compute="every point shares a cluster with them"))
    assert "error by compute: no check: every point shares a cluster with them" in none


def test_the_count_of_flops_stands_beside_budgets():
    points = study([12e3, 24e3, 47e3, 95e3, 190e3])
    flops = points.budgets * (2 + 3 * (points.columns["n"] / 12e3) ** (-1 / 3))
    counted = counting.count("C_counted", points.columns["n"], points.columns["d"], flops)
    told = dataclasses.replace(points, columns=dict(points.columns) | {"flops": flops}, counted=counted)
    plain, other = (report.analyse(table, replicates=100, budgets=(1e14,)) for table in (points, told))
    assert "budget, 6 N D" in printed(plain)
    assert "budget, C_counted" in printed(other)
    assert "budget: C as column 'C_counted' counts it" in printed(other)
    (here,) = other.allocations
    assert counted.cost.training({"n": here.n}) * here.d == pytest.approx(1e14)
    assert here.d < 0.7 * plain.allocations[0].d
    parametric = other.approaches[-1]
    assert parametric.at[0].n == pytest.approx(here.n, rel=1e-6)
    assert parametric.at[0].d == pytest.approx(here.d, rel=1e-6)
    assert parametric.b > 1 - parametric.a  # a token gets cheaper against 6 N as models grow
    assert other.holdouts["largest_c"].heldout.budgets.min() > 0.9 * flops.max()


def test_a_check_that_is_not_possible_is_said_to_be_missing():
    found = report.analyse(study([12e3, 190e3, 12e3]), replicates=100)
    assert "no check: holding out the largest N" in printed(found)


@pytest.mark.parametrize(("sizes", "label"), [(8, "indicative (7 clusters)"), (9, "prediction interval\n")])
def test_the_held_out_line_counts_the_trunks_that_are_left(sizes, label):
    found = report.analyse(study(list(np.geomspace(12e3, 190e3, sizes))), replicates=100)
    (line,) = [line + "\n" for line in printed(found).splitlines() if "largest N: 4 points predicted" in line]
    assert label in line.rstrip() + "\n"


def test_a_law_that_the_points_do_not_determine_is_called_so_beside_its_answer():
    warning = "The points do not determine this law"
    points = study([12e3, 24e3, 47e3, 95e3, 190e3])
    assert warning not in printed(report.analyse(points, replicates=100))
    n, d = points.columns["n"], points.columns["d"]
    no_floor = Table(points.columns, 60 / n**0.4 + 250 / d**0.38, points.cluster, {})
    found = report.analyse(no_floor, replicates=100)
    assert found.fit.certificate.at_bounds == ("E",)
    assert all(row.indicative for row in found.allocations)
    assert warning in printed(found)
