import dataclasses

import numpy as np
import pytest

from experiments.benchmarks.run_batch import ACCELERATOR_SIZES, WAYS, Turn, summarise, trainer
from experiments.benchmarks.train_shapes import Shape, shape
from models.config import ladder_model
from scaling import mesh
from scaling.config import ExecutionConfig

SHAPE = Shape(ladder_model(8, 259), sequence_length=16, batch_size=4, execution=ExecutionConfig(steps_per_dispatch=2))


def turns(alone, mapped, vmapped, others=0.0):
    return dict(zip(WAYS, (Turn(s, others) for s in (alone, mapped, vmapped)), strict=True))


def test_ratio_is_taken_inside_rounds_and_rates_are_of_all_runs():
    # the machine drifts: the median of the rounds' ratios is 2, the ratio of the medians 4
    result = summarise(SHAPE, 8, [turns(1.0, 0.5, 1.0), turns(4.0, 1.0, 4.0), turns(8.0, 8.0, 8.0)])
    assert result["ratio"] == {"alone": 1.0, "map": 2.0, "vmap": 1.0}
    assert result["ratio_of_best"] == {"alone": 1.0, "map": 2.0, "vmap": 1.0}
    assert result["tokens_per_second"]["alone"] == 8 * 2 * 4 * 16 / 4.0
    assert result["best_tokens_per_second"]["map"] == 8 * 2 * 4 * 16 / 0.5


def test_rounds_under_load_do_not_count_where_there_are_quiet_ones():
    loaded = [turns(9.0, 1.0, 1.0, others=1.0)] * 3
    assert summarise(SHAPE, 8, [turns(1.0, 0.5, 1.0), *loaded])["ratio"]["map"] == 2.0
    result = summarise(SHAPE, 8, loaded)
    assert (result["ratio"]["map"], result["quiet_rounds"]) == (9.0, 0)


@pytest.mark.parametrize("name", ACCELERATOR_SIZES)
def test_an_accelerators_sizes_have_heads_for_its_fast_attention(name):
    one = shape(name)
    model, data = dataclasses.replace(one.model, compute_dtype="bfloat16"), one.run_config().data
    assert mesh.resolve(one.execution, data, model, "gpu").attention == "cudnn"


@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_all_runs(way, monkeypatch):
    from scaling import run

    done = []
    original = run.dispatch_for

    def spy(config, execution):
        dispatch = original(config, execution)

        def counting(state, rows, rates, counts):
            state, metrics = dispatch(state, rows, rates, counts)
            done.append(np.asarray(state.step))
            return state, metrics

        return counting

    monkeypatch.setattr(run, "dispatch_for", spy)
    train, facts = trainer(SHAPE, 4, way)
    train()
    train()
    last = done[-4:] if way == "alone" else done[-1:]
    assert sum(steps.sum() for steps in last) == 4 * 2 * 2
    assert facts["vmapped_runs"] == (2 if way == "vmap" else 1)
