import numpy as np
import pytest

from experiments.simulations import suggest_vs_grid as simulation
from scaling.laws.design import Noise


def readings(spent: np.ndarray, error: np.ndarray, studies: int = 40) -> dict[str, np.ndarray]:
    """Studies whose errors are plus and minus the same, so that their root mean square is what was asked for."""
    sign = np.where(np.arange(studies) % 2, 1.0, -1.0)[:, None]
    return {
        "spent": np.broadcast_to(spent, (studies, len(spent))),
        "error": sign * error,
        "half_width": np.broadcast_to(1.6 * error, (studies, len(error))),
    }


def test_merit_is_the_share_of_the_grids_flops_at_the_grids_error():
    """Errors that fall as C^-1/2 for suggested runs, and stand at twice that for the grid: a quarter of its FLOPs."""
    spent, grid_spent = np.geomspace(1e10, 1e14, 9), np.array([1e12, 1e13])
    mine, grid = readings(spent, spent**-0.5), readings(grid_spent, 2 * grid_spent**-0.5)
    for measure in simulation.MEASURES:
        assert simulation.merit(mine, grid, measure) == pytest.approx([0.25, 0.25])
    low, high = simulation.merit_interval(mine, grid, "rms_error")
    assert (low, high) == (pytest.approx([0.25, 0.25]), pytest.approx([0.25, 0.25]))


def test_what_no_budget_reached_is_infinite_and_what_the_first_did_is_at_most_that():
    spent, grid_spent = np.array([1e10, 1e11]), np.array([1e12, 1e13])
    mine, grid = readings(spent, np.array([0.2, 0.1])), readings(grid_spent, np.array([0.3, 0.05]))
    assert simulation.merit(mine, grid, "rms_error") == pytest.approx([0.01, np.inf])


def test_a_study_pays_for_what_is_new_and_keeps_its_trunks_error():
    study = simulation.Study(Noise(3e-3, 0.0), seed=0)
    first = study.train(1e4, (2e5, 4e5))
    assert first == pytest.approx(6e4 * (0.9 * 4e5 + 0.1 * 6e5))
    more = study.train(1e4, (8e5,), continues="0")
    assert first + more == pytest.approx(6e4 * (0.9 * 8e5 + 0.1 * 14e5))
    study.train(1e4, (2e5,))
    points = study.table()
    law = simulation.CHINCHILLA.predict(simulation.LAW, points.columns)
    error = np.log(points.loss / law)
    assert list(points.cluster) == ["0", "0", "0", "1"]
    assert error[:3] == pytest.approx(error[0])
    assert abs(error[3] - error[0]) > 1e-4
