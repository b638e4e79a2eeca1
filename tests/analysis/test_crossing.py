import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.crossing import matches, tokens_to_reach


@given(st.floats(1.05, 2.95))
def test_on_a_logarithm_the_crossing_is_exact(target):
    tokens = np.array([1e3, 1e4, 1e5])  # loss = 6 - log10 D: 3, 2, 1
    assert tokens_to_reach(tokens, 6 - np.log10(tokens), target) == pytest.approx(10 ** (6 - target))


def test_what_lies_outside_of_the_branches_is_not_known():
    assert math.isnan(tokens_to_reach([1e3, 1e4], [3.0, 2.0], 1.9))
    assert math.isnan(tokens_to_reach([1e3, 1e4], [3.0, 2.0], 3.1))
    assert tokens_to_reach([1e3, 1e4], [3.0, 2.0], 2.0) == pytest.approx(1e4)
    assert tokens_to_reach([1e3, 1e4, 1e5], [2.0, 2.0, 1.0], 2.0) == pytest.approx(1e3)


def test_compute_and_inference_of_a_match_by_hand():
    """Ten times smaller, reached at 4000 tokens per parameter of its own: 10 times fewer, 100 times the tokens."""
    rows = [("small", 100, 0, d, 7 - math.log10(d)) for d in (4e3, 4e4, 4e5, 4e6)]
    rows += [("large", 1000, 0, 8e4, 0.1), ("large", 1000, 0, 4e4, 7 - math.log10(4e5)), ("large", 1000, 1, 4e4, 1.0)]
    points = pd.DataFrame(rows, columns=["label", "N", "seed", "D_total", "loss"])
    (match,) = matches(points, "loss").to_dict("records")  # seed 1 has nothing to compare with
    assert (match["small"], match["large"], match["seed"]) == (100, 1000, 0)
    assert match["D/N"] == pytest.approx(4000)
    assert match["compute"] == pytest.approx(0.1 * 4e5 / 4e4)
    assert match["inference"] == pytest.approx(0.1)
    assert (match["best"], match["longest"]) == (pytest.approx(7 - math.log10(4e6)), pytest.approx(4e4))
    points.loc[points["N"] == 100, "loss"] += 10
    assert math.isnan(matches(points, "loss")["compute"].item())
