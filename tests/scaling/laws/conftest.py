from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.laws import table
from scaling.laws.forms import CHINCHILLA

TABLES = Path(__file__).parents[4] / "shared" / "data" / "law_tables"


@pytest.fixture(scope="session")
def real_table() -> Callable[..., table.Table]:
    def read(name: str, **how: Any) -> table.Table:
        if not (TABLES / name).is_file():
            pytest.skip(f"{name} is not here (it is not ours to ship)")
        return table.read_table(TABLES / name, **how)

    return read


@pytest.fixture(scope="session")
def epoch(real_table: Callable[..., table.Table]) -> table.Table:
    """Besiroglu et al.'s points without the five largest losses, as their notebook has it."""
    points = real_table("chinchilla_svg_extracted.csv")
    return points.select(points.loss < np.sort(points.loss)[-5])


@pytest.fixture(scope="session")
def planted() -> dict[str, float]:
    return {"E": 1.2, "A": 60.0, "B": 250.0, "alpha": 0.40, "beta": 0.38}


@pytest.fixture(scope="session")
def ladder(planted: dict[str, float]) -> Callable[..., table.Table]:
    """A small study: every size at D = 20, 40, 60, 80 N, the last trunk a second seed of another."""

    def make(
        params: dict[str, float] = planted,
        *,
        sizes: tuple[float, ...] = (12e3, 24e3, 47e3, 95e3, 190e3, 24e3),
        trunk_noise: float = 0.0,
        point_noise: float = 0.0,
        seed: int = 0,
    ) -> table.Table:
        rng = np.random.default_rng(seed)
        n = np.repeat(np.array(sizes), 4)
        d = n * np.tile([20, 40, 60, 80], len(sizes))
        trunk = np.repeat(np.arange(len(sizes)), 4)
        noise = rng.normal(0, trunk_noise, len(sizes))[trunk] + rng.normal(0, point_noise, len(n))
        loss = CHINCHILLA.predict(params, {"n": n, "d": d}) * np.exp(noise)
        return table.Table({"n": n, "d": d, "flops": 6 * n * d}, loss, trunk.astype(str), {})

    return make
