"""`windtunnel bench sparse_attention`: names, figures, refusals, and that the whole command works on a CPU."""

import json

import numpy as np
import pytest

from experiments import cli
from experiments.benchmarks import sparse_attention as benchmark
from kernels.sparse_attention import bench
from scaling.errors import UserError


def test_a_name_is_a_family_at_any_length():
    spec = benchmark.spec_of("minicpm4-8b-24k")
    assert (spec.T, spec.H, spec.K, spec.selection.blocks) == (24 * 1024, 32, 2, 96)
    for name in ("minicpm4-8b", "minicpm5-8k", "small-4"):
        with pytest.raises(
            UserError, match=f"no shape '{name}': use FAMILY-LENGTHk, FAMILY one of minicpm4-8b, nsa-size"
        ):
            benchmark.spec_of(name)
    assert all(map(benchmark.spec_of, (*benchmark.GPU_NAMES, *benchmark.CPU_NAMES)))


def test_a_speed_up_counts_the_selection():
    spec = benchmark.spec_of("nsa-size-8k")
    taken = {
        "dense forward": [12.0, 10.0, 11.0],
        "dense both": [40.0, 40.0, 40.0],
        "select": [1.0, 1.0, 1.0],
        "selected attend": [1.5, 1.5, 1.5],
        "selected forward": [2.0, 1.0, 3.0],
        "selected both": [7.0, 7.0, 7.0],
    }
    found = benchmark.summarise(spec, taken, {"selected": 10**9})
    case = found["cases"]["selected"]
    assert case["speedup"] == {"dense forward": 4.0, "dense both": 5.0}  # medians over rounds of 4, 5, 2.75
    assert case["useful_tflops"]["forward"] == pytest.approx(4 * 16 * 128 * 1e9 / 2e-3 / 1e12)
    assert case["useful_tflops"]["attend"] == pytest.approx(4 * 16 * 128 * 1e9 / 1.5e-3 / 1e12)
    assert found["milliseconds"]["dense forward"] == {"median": 11.0, "quartiles": [10.0, 11.0, 12.0]}


def test_a_wrong_backend_is_not_timed(monkeypatch):
    monkeypatch.setattr(bench, "largest_error", lambda *_: {"o": 1e-3, "dq": float("nan")})
    with pytest.raises(UserError, match=r"xla is wrong here \(\{'dq': nan\}, 0.02 allowed\)"):
        benchmark.checked(benchmark.spec_of("small-1k"), "xla")


def test_activations_must_fit(tmp_path):
    spec = benchmark.spec_of("small-1k")
    q, k = np.zeros((2048, 8, 64)), np.zeros((2048, 2, 64))
    np.savez(tmp_path / "good.npz", q=q + 1, k=k + 2)
    arrays = benchmark.given(spec, tmp_path / "good.npz")
    assert arrays.q_BTHh.shape == (1, 1024, 8, 64)
    assert (arrays.k_BSKh == 2).all()
    np.savez(tmp_path / "short.npz", q=q[:512], k=k)
    with pytest.raises(UserError, match=r"q in .*short.npz has shape \(512, 8, 64\): needed are \(1024, 8, 64\)"):
        benchmark.given(spec, tmp_path / "short.npz")


def test_missing_files_are_named(tmp_path):
    for option in ("torch_python", "activations"):
        with pytest.raises(UserError, match="nothing at .*nowhere, which --" + option.replace("_", "-")):
            cli.bench("sparse_attention", ("small-1k",), out=tmp_path / "x.json", **{option: tmp_path / "nowhere"})


@pytest.mark.slow
def test_the_command_works(tmp_path, capsys):
    cli.bench("sparse_attention", ("small-1k",), rounds=2, seconds=0.0, out=tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    result = figures["shapes"]["small-1k"]
    assert result["backend"] == "xla"
    assert set(result["cases"]) == {"overlap 0%", "overlap 50%", "overlap 80%", "overlap 95%", "selected"}
    assert max(result["errors"].values()) < 1e-3
    assert set(figures["break_even"]["small"]) == {"forward", "both"}
    assert "over dense" in capsys.readouterr().out
