"""`windtunnel bench train`: names, figures, memory, and that the whole command works."""

import dataclasses
import json

import pytest

from experiments import cli
from experiments.benchmarks import train_memory
from experiments.benchmarks.contenders import Round
from experiments.benchmarks.train_shapes import Shape, shape
from experiments.benchmarks.train_step import OURS, limit_of, summarise
from experiments.commands.bench import named_shapes
from models.config import NAMED, ladder_model
from scaling.accounting import parameter_counts
from scaling.errors import UserError

SMALL = Shape(ladder_model(8, vocab_size=16), sequence_length=16, batch_size=4)


def test_names_are_shapes_and_what_is_asked_otherwise_changes_them():
    found = named_shapes(("A", "ladder-32", "minicpm-0.5b"), {"batch_size": 2, "sequence_length": None})
    assert [s.batch_size for s in found.values()] == [2, 2, 2]
    assert [s.sequence_length for s in found.values()] == [128, 128, 4096]
    assert found["ladder-32"].model == ladder_model(32, 259)
    assert dataclasses.replace(found["minicpm-0.5b"].model, compute_dtype="float32") == NAMED["minicpm-0.5b"]
    for name in ("C", "ladder-", "ladder-x", "minicpm-3b"):
        with pytest.raises(UserError, match=f"no size '{name}': use A, B, ladder-WIDTH, or one of minicpm-9m"):
            shape(name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rounds", "0"], "0 rounds of 1 seconds: at least 1"),
        (["--rounds", "1", "--seconds", "-1"], "1 rounds of -1 seconds"),
        (["--rows", "0"], "batch_size is 0: it must be at least 1"),
        (["--sequence-length", "-1"], "sequence_length is -1: it must be at least 1"),
        (["ladder-15"], "size 'ladder-15': ladder width 15: it must be a positive multiple of 4"),
    ],
)
def test_what_cannot_be_timed_is_a_sentence(monkeypatch, capsys, options, says):
    monkeypatch.setattr("sys.argv", ["windtunnel", "bench", "train", "A", *options])
    monkeypatch.setattr("scaling.environment.prepare", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_limit_is_the_data_sheets_for_its_type_and_else_what_was_measured():
    rounds = {OURS: [Round(1.0, 0.0, gflops) for gflops in (210.0, 190.0, 200.0)]}
    half, whole = shape("minicpm-0.1b"), shape("A")
    assert limit_of(half, rounds, "NVIDIA H200", 2).gflops == 2 * 989e3
    assert limit_of(whole, rounds, "NVIDIA H200", 1).gflops == 200.0
    assert limit_of(half, rounds, "cpu", 1).gflops == 200.0
    assert limit_of(half, {"torch": [Round(1.0, 0.0, None)]}, "cpu", 1) is None


def test_utilisation_counts_the_head_and_causal_attention():
    """MiniCPM-1.2B at 50% of an H200: 6 (N + V D) and 6 L T H h of attention FLOPs a token, T of them halved."""
    wanted, model = shape("minicpm-1.2b"), NAMED["minicpm-1.2b"]
    matrices = 1_247_442_432 - (2 * 52 + 1) * 1536  # the published count without its gains
    flops = 6 * (matrices + 73_440 * 1536) + 6 * 52 * 4097 * 24 * 64
    result = summarise(wanted, [{OURS: [Round(0.5 * 989e12 / flops, 0.0, None)]}], "NVIDIA H200")
    assert model.num_layers == 52
    assert result["utilisation"][OURS] == pytest.approx(0.5, rel=1e-6)


def test_state_bytes_are_three_float32_a_parameter():
    found = train_memory.analyse(SMALL, "none", chunked=True)
    parameters = parameter_counts(SMALL.model).total
    assert found["parameters"] == 4 * parameters
    assert found["optimizer"] == 8 * parameters + 4  # two moments and a counter
    assert found["peak"] > found["parameters"] + found["optimizer"] + found["temporary"]
    assert found["how"]["attention"] == "dot_product_attention"  # a GPU's choice in float32


@pytest.mark.slow
def test_memory_falls_by_the_logits_where_they_are_chunked_and_by_the_layers_where_they_are_recomputed():
    """4 GiB of logits: kept whole, in two chunks, and with a block's input alone kept for the backward pass."""
    model = dataclasses.replace(ladder_model(32, 2**21 // 4), compute_dtype="bfloat16")
    large = Shape(model, 512, 4, document_tokens=0)
    whole, chunked, recomputed = (train_memory.analyse(large, *variant) for variant in train_memory.VARIANTS)
    logits = 4 * 4 * 512 * model.vocab_size
    chunk = 4 * chunked["how"]["loss_chunk"] * model.vocab_size
    assert whole["how"]["attention"] == chunked["how"]["attention"] == "cudnn"
    assert 0 < chunk < logits
    assert whole["temporary"] - chunked["temporary"] > logits - chunk
    assert recomputed["temporary"] < chunked["temporary"]


def test_the_stand_in_for_flash_attention_is_gone_after_an_analysis():
    from models.attention import IMPLEMENTATIONS, cudnn_attention

    model = dataclasses.replace(SMALL.model, compute_dtype="bfloat16", head_dim=8)
    assert train_memory.analyse(dataclasses.replace(SMALL, model=model), "none", True)["how"]["attention"] == "cudnn"
    assert IMPLEMENTATIONS["cudnn"] is cudnn_attention


@pytest.mark.parametrize("memory", [False, True])
def test_the_command_writes_its_figures(monkeypatch, tmp_path, capsys, memory):
    out = tmp_path / "bench.json"
    arguments = ["bench", "train", "ladder-8", "--rows", "4", "--rounds", "1", "--seconds", "0.01", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["windtunnel", *arguments, *(["--memory"] if memory else [])])
    monkeypatch.setenv("WINDTUNNEL_ENVIRONMENT", "1")  # this process is not to start anew
    cli.main()
    record = json.loads(out.read_text())
    assert record["versions"]["jax"]
    assert "ladder-8" in capsys.readouterr().out
    found = record["shapes"]["ladder-8"]
    assert found["batch_size"] == 4
    if memory:
        assert [v["peak"] > v["parameters"] for v in found["variants"]] == [True] * 3
    else:
        assert found["limit"]["source"] == "matrix products in this run"
        gflops = found["tokens_per_second"][OURS] * found["flops_per_token"] / 1e9
        assert found["utilisation"][OURS] == pytest.approx(gflops / found["limit"]["gflops"])
        assert found["facts"][OURS]["peak_bytes"] > 2**20
