"""Branches to longer rows: trained, untrained, and left in turn; buckets of document lengths."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from models import transformer
from models.config import RopeScaling, SelectionConfig
from scaling.accounting import training_flops
from scaling.branches.decay import DecaySpec
from scaling.branches.long_context import LongContextSpec, length_buckets, lengthened
from scaling.config import DecayConfig, RetrievalConfig
from scaling.errors import UserError
from scaling.records import measurements, points, status
from scaling.schedules import learning_rates
from scaling.study import EvaluationConfig, RunSpec, Study, plan_study

LONG = lengthened(tiny.DATA, 32)
SPARSE = SelectionConfig(block=8, kernel=4, stride=2, blocks=3, init_blocks=1, local_blocks=1, dense_len=16)
UNTRAINED = LongContextSpec("untrained", 18, 0, attention="sparse", sparse=SPARSE)
BRANCHES = (
    LongContextSpec("dense", 12, 6, LONG, rope_theta=4e4, branches=(UNTRAINED,)),
    LongContextSpec("sparse", 12, 6, LONG, rope_theta=4e4, attention="sparse", sparse=SPARSE),
)


def study(branches=BRANCHES, evaluation=None):
    plain = EvaluationConfig((tiny.CODE,), tokens=640, sequence_length=32)
    run = RunSpec("t", tiny.TRUNK, branches)
    return Study("long", "?", (run,), evaluation or plain, execution=tiny.EXECUTION, law=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
    retrieval = RetrievalConfig((256,), rows=2, depths=2)
    evaluation = EvaluationConfig((tiny.CODE,), 640, 32, position_bins=4, retrieval=retrieval)
    return tiny.execute(study(evaluation=evaluation), tmp_path_factory.mktemp("long"), data_dir)


def entries(branches=BRANCHES):
    return {entry.label: entry for entry in plan_study(study(branches), {"tiny_code": "d"})}


def config(spec):
    return spec.config(tiny.TRUNK, "0" * 16)


def test_everything_ends_and_is_measured(made):
    assert made.is_finished()
    assert {row.state for row in status(made.store, "long").values()} == {"complete"}
    labels = {"t/dense", "t/sparse", "t/dense/untrained"}
    assert set(points(made.store, "long")["label"]) == labels
    for measure, rows in (("loss_by_position", 4), ("retrieval", 4)):
        table = measurements(made.store, "long", measure)
        assert table.groupby("label").size().to_dict() == dict.fromkeys(labels, rows)


def test_a_branch_without_training_is_its_parents_end_read_in_another_way(made):
    by_label = {entry.label: entry for entry in made.entries}
    dense, untrained = by_label["t/dense"], by_label["t/dense/untrained"]
    ours, theirs = (made.runner.state_at(e.config, e.run, 18).state.params for e in (untrained, dense))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    rows = measurements(made.store, "long", "loss_by_position").set_index("label")["nats_per_token"]
    np.testing.assert_allclose(rows["t/dense/untrained"][:3], rows["t/dense"][:3], rtol=1e-5)  # all blocks visible
    assert abs(rows["t/dense/untrained"].iloc[3] / rows["t/dense"].iloc[3] - 1) > 1e-6  # and here not
    assert tiny.log(made.store.root, untrained.run) == []


def test_the_backend_of_sparse_layers_is_in_the_rows_of_runs_that_have_them(made):
    recorded = {}
    for entry in made.entries:
        segments = made.store.result(entry.run).execution
        recorded[entry.label] = [segment["fingerprint"].get("sparse_attention") for segment in segments]
    assert recorded["t/dense"] == recorded["t"] == [None]
    assert recorded["t/sparse"] == recorded["t/dense/untrained"] == [None, "xla"]
    trunk = made.store.result(made.entries[0].run).execution[0]["fingerprint"]
    assert "sparse_attention" not in trunk  # as before there was any


def test_a_finished_study_does_nothing(made, data_dir):
    before = tiny.outcome(made.store.root)
    again = tiny.executor(made.study, made.store.root, data_dir, stop_requested=lambda: pytest.fail("trains"))
    again.run()
    assert tiny.outcome(made.store.root) == before


def test_a_branch_changes_what_it_says_and_nothing_else():
    stretched = RopeScaling("ntk", 2.0)
    found = config(LongContextSpec("x", 12, 10, LONG, 5e4, stretched, ("dense", "sparse"), SPARSE, share=0.3, peak=0.1))
    assert (found.model.rope_theta, found.model.rope_scaling) == (5e4, stretched)
    assert found.model.attention == ("dense", "sparse")
    assert found.schedule.decay == DecayConfig(19, 3)
    rates = learning_rates(found.schedule, 12, 22) / np.float32(0.1)
    assert rates[:8] == pytest.approx(np.ones(8))
    assert (np.diff(rates[7:]) < 0).all()
    back = {"rope_theta": 1e4, "rope_scaling": None, "attention": "dense", "sparse": None}
    assert dataclasses.replace(found.model, **back) == tiny.MODEL
    kept = config(LongContextSpec("x", 12, 10, share=0.0))
    assert (kept.model, kept.data) == (tiny.MODEL, tiny.DATA)
    assert kept.schedule == tiny.TRUNK.schedule  # a constant rate


def test_a_sparse_parent_can_be_branched_densely():
    sparse = config(LongContextSpec("x", 12, 10, attention="sparse", sparse=SPARSE))
    assert LongContextSpec("y", 22, 0, attention="dense").config(sparse, "1" * 16).model == tiny.MODEL
    assert LongContextSpec("y", 22, 5).config(sparse, "1" * 16).model == sparse.model


def test_parts_of_a_run_count_at_their_own_length_and_attention():
    found = entries()
    per_step = tiny.DATA.tokens_per_step
    trunk = training_flops(tiny.MODEL, 16, 12 * per_step)
    for label in ("t/dense", "t/sparse"):
        entry = found[label]
        flops = entry.entry()["flops"]
        assert flops["counted"] == trunk + training_flops(entry.config.model, 32, 6 * per_step)
        assert flops["6ND"] == training_flops(tiny.MODEL, 16, 18 * per_step, "6ND")
    assert found["t/dense/untrained"].entry()["flops"] == found["t/dense"].entry()["flops"]
    assert found["t/dense/untrained"].entry()["D_total"] == 18 * per_step


def test_a_branch_of_a_branch_hangs_on_it():
    found = entries()
    nested = found["t/dense/untrained"]
    assert nested.trunk == found["t/dense"].run
    assert (nested.trunk_label, nested.config.parent.step) == ("t/dense", 18)
    assert nested.config.data == LONG
    early = (dataclasses.replace(BRANCHES[0], branches=(LongContextSpec("early", 11, 0),)),)
    with pytest.raises(UserError, match="'early' leaves 't/dense' at step 11, which trains from step 12 to 18"):
        entries(early)


def test_a_decay_can_be_left_too():
    branch = DecaySpec(30, share=0.2, branches=(LongContextSpec("long", 30, 0, LONG),))
    assert entries((branch,))["t/30/long"].config.parent.step == 30


def test_tokens_of_a_step_are_kept_or_it_is_refused():
    assert (LONG.sequence_length, LONG.batch_size, LONG.tokens_per_step) == (32, 2, tiny.DATA.tokens_per_step)
    assert lengthened(tiny.DATA, 64, tiny.MIXED.mixture).mixture == tiny.MIXED.mixture
    for length in (24, 128):
        with pytest.raises(UserError, match=f"rows of {length} do not divide the 64 tokens"):
            lengthened(tiny.DATA, length)


def test_buckets_part_a_corpus_by_length():
    task = dataclasses.replace(tiny.CODE, min_bytes=64)
    short, long = (part.task for part in length_buckets(task, [0, 4096, 16384]))
    assert (short.min_bytes, short.max_bytes, long.min_bytes, long.max_bytes) == (64, 4095, 4096, 16383)
    assert long.record_tokens == 16384  # a document with its end is one record
    assert len({short.name, long.name, task.name}) == 3
    with pytest.raises(UserError, match="rising lengths"):
        length_buckets(task, [4096, 0])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": -1}, "-1 steps"),
        ({"share": 1.5}, "1.5 must lie between 0 and 1"),
        ({"shape": "exponential"}, "'megatron'"),
        ({"attention": "dense", "sparse": SPARSE}, "is dense: leave `sparse` out"),
    ],
)
def test_branches_that_make_no_sense_are_refused(fields, says):
    with pytest.raises(UserError, match=says):
        LongContextSpec(**{"label": "x", "start": 12, "steps": 5} | fields)


def test_parameters_have_one_shape_whatever_the_attention():
    shapes = [
        jax.eval_shape(lambda m=model: transformer.init(m, 0)) for model in (config(BRANCHES[1]).model, tiny.MODEL)
    ]
    assert shapes[0] == shapes[1]
