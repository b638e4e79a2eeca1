import dataclasses
import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import train_step, train_step_ours
from experiments.benchmarks.contenders import Contender, Round
from experiments.benchmarks.train_shapes import SHAPES, Shape
from experiments.benchmarks.train_step import OURS, summarise
from experiments.commands.bench import train
from models.config import ladder_model
from scaling.config import ExecutionConfig, from_json
from scaling.errors import UserError

# A contender that answers every round with how often it was asked, in tokens/s.
ECHO = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for number, line in enumerate(sys.stdin, start=1):
    print(json.dumps({"tokens_per_second": number * float(line), "seconds": 1.0}), flush=True)
"""


def test_shapes_are_the_sizes_that_the_benchmark_is_quoted_for():
    counted = {name: 12 * s.model.num_layers * s.model.d_model**2 for name, s in SHAPES.items()}
    assert counted["A"] == pytest.approx(0.8e6, rel=0.05)
    assert counted["B"] == pytest.approx(2.7e6, rel=0.05)
    found = {name: summarise(s, [{OURS: [Round(1.0, 0.0, 1.0)]}])["non_embedding"] for name, s in SHAPES.items()}
    assert found == pytest.approx(counted, rel=0.05)


def rounds_at(speeds, others=0.0, times=1.0):
    return [Round(times * speed, others, None) for speed in speeds]


def test_ratio_is_taken_inside_rounds_against_the_faster_peer():
    # the machine drifts between rounds: the median of the rounds' ratios is 2, the ratio of the medians 1.5
    ours, compiled, eager = [2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 4.0, 2.0, 8.0, 5.0], [1.0, 1.0, 1.0, 1.0, 1.0]
    result = summarise(
        SHAPES["A"],
        [{OURS: rounds_at(ours), "torch eager": rounds_at(eager), "torch compiled": rounds_at(compiled)}],
    )
    assert result["faster_peer"] == "torch compiled"
    assert result["ratio"] == 2.0


def test_rounds_under_load_count_for_no_ratio():
    quiet, loaded = [1.0] * 5, [1.0] * 20
    ours = rounds_at(quiet, times=2) + rounds_at(loaded, times=2)
    peer = rounds_at(quiet) + rounds_at(loaded, others=1.0, times=0.1)  # load flatters us twentyfold
    result = summarise(SHAPES["A"], [{OURS: ours, "torch eager": peer}])
    assert (result["ratio"], result["quiet_rounds"]) == (2.0, 5)
    without = summarise(SHAPES["A"], [{OURS: ours[1:], "torch eager": peer[1:]}])
    assert (without["ratio"], without["faster_peer"], without["quiet_rounds"]) == (None, None, 4)


class FakeContender:
    """Answers at once: ours half as fast beside the first peer as beside the second; `warm` are those not closed."""

    device = "NVIDIA H200"
    warm, most, ends = [], [], ""

    def __init__(self, name, command):
        if name == self.ends:
            raise UserError(f"benchmark: {name} ended with code 1: see its message above")
        self.name, self.facts = name, {"device": self.device, "devices": 1, "peak_bytes": 1}
        self.warm.append(name)
        self.most.append(list(self.warm))

    def round(self, seconds):
        beside = [name for name in self.warm if name != OURS]
        speed = {"torch eager": 1.0, "torch compiled": 4.0}.get(self.name, 2.0 if "torch eager" in beside else 8.0)
        return Round(speed, 0.0, None)

    def close(self):
        self.warm.remove(self.name)


@pytest.fixture
def contenders(monkeypatch):
    monkeypatch.setattr(train_step, "Contender", FakeContender)
    monkeypatch.setattr(FakeContender, "warm", [])
    monkeypatch.setattr(FakeContender, "most", [])
    return FakeContender


def test_an_accelerator_holds_ours_and_one_peer_at_a_time(contenders, monkeypatch):
    result = train_step.measure(SHAPES["A"], Path(sys.executable), rounds=5, seconds=0.0)
    assert contenders.most == [[OURS], [OURS, "torch eager"], [OURS], [OURS, "torch compiled"]]
    assert contenders.warm == []
    assert (result["faster_peer"], result["ratio"], result["quiet_rounds"]) == ("torch compiled", 2.0, 5)
    assert result["tokens_per_second"] == {OURS: 5.0, "torch eager": 1.0, "torch compiled": 4.0}
    assert set(result["facts"]) == {OURS, "torch eager", "torch compiled"}
    monkeypatch.setattr(contenders, "device", "cpu")
    train_step.measure(SHAPES["A"], Path(sys.executable), rounds=5, seconds=0.0)
    assert contenders.most[-1] == [OURS, "torch eager", "torch compiled"]
    assert "torch eager" not in train_step.measure(SHAPES["A"], None, rounds=5, seconds=0.0)["facts"]


def test_a_loaded_measurement_of_one_peer_leaves_no_ratio():
    quiet, loaded = rounds_at([1.0] * 5), rounds_at([1.0] * 5, others=1.0)
    measurements = [{OURS: quiet, "torch eager": quiet}, {OURS: loaded, "torch compiled": loaded}]
    result = summarise(SHAPES["A"], measurements)
    assert (result["ratio"], result["faster_peer"], result["quiet_rounds"]) == (None, None, 0)


def test_a_size_that_fails_costs_the_others_nothing(contenders, monkeypatch, tmp_path, capsys):
    measure, out = train_step.measure, tmp_path / "out.json"

    def measured(shape, *args):
        monkeypatch.setattr(FakeContender, "ends", "torch compiled" if shape == SHAPES["A"] else "")
        if shape == SHAPES["B"]:
            assert "A" in json.loads(out.read_text())["failed"]  # written before the next size is begun
        return measure(shape, *args)

    monkeypatch.setattr(train_step, "measure", measured)
    with pytest.raises(UserError, match="A: benchmark: torch compiled ended with code 1"):
        train(SHAPES, Path(sys.executable), rounds=5, seconds=0.0, out=out)
    record = json.loads(out.read_text())
    assert (set(record["shapes"]), set(record["failed"])) == ({"B"}, {"A"})
    assert contenders.warm == []
    assert "2.00x" in capsys.readouterr().out


def test_gflops_are_those_of_the_counted_terms():
    shape = SHAPES["A"]
    result = summarise(shape, [{OURS: [Round(1e3, 0.0, 200.0)]}])
    # 6 N, the tied head, and causal scores and values over (T + 1) / 2 keys
    model, T = shape.model, shape.sequence_length
    matrices = model.num_layers * (4 * model.d_model**2 + 3 * model.d_model * model.d_ff)
    by_hand = 6 * (matrices + 259 * 128) + 3 * model.num_layers * 4 * (T + 1) / 2 * model.d_model
    assert result["gflops"][OURS] == pytest.approx(1e3 * by_hand / 1e9)


def test_contender_answers_one_line_per_round_and_ends():
    contender = Contender("echo", [sys.executable, "-c", ECHO])
    assert [contender.round(0.5).tokens_per_second for _ in range(3)] == [0.5, 1.0, 1.5]
    contender.close()
    assert contender.process.returncode == 0


def test_contender_that_dies_is_named():
    with pytest.raises(UserError, match="torch eager ended with code 7"):
        Contender("torch eager", [sys.executable, "-c", "raise SystemExit(7)"])


def test_an_absent_interpreter_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no interpreter at .*absent"):
        train(SHAPES, tmp_path / "absent", rounds=1, seconds=1.0, out=tmp_path / "out.json")


def test_our_side_trains():
    shape = Shape(ladder_model(8, vocab_size=16), 8, 2, execution=ExecutionConfig(steps_per_dispatch=2))
    step, facts = train_step_ours.stepper(from_json(Shape, json.loads(json.dumps(dataclasses.asdict(shape)))))
    losses = [step() for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]  # the same rows over and over are learnt
    assert facts["steps_per_dispatch"] == 2
