"""What the executor refuses before anything is trained, and what it tells reports."""

import dataclasses
import shutil

import pytest
import tiny

from scaling import evaluate, mesh, storage
from scaling.data import shards
from scaling.data.shards import open_prepared
from scaling.errors import UserError
from scaling.records import RunStore, plan
from scaling.study import EvaluationConfig


@pytest.fixture
def edited(tmp_path, data_dir):
    """The tiny corpora in a folder where the prose's manifest can be changed."""
    shutil.copytree(data_dir, tmp_path / "data")
    path = tmp_path / "data" / shards.task_id(tiny.PROSE) / shards.MANIFEST

    def edit(change):
        storage.write_json(path, change(storage.read_json(path)))
        return tmp_path / "data"

    return edit


@pytest.mark.parametrize(
    "wanted",
    [
        tiny.study(tasks=(tiny.CODE, tiny.PROSE)),
        tiny.study((tiny.decay(30, data=dataclasses.replace(tiny.MIXED, mixture=tiny.MIXED.mixture[1:])),)),
    ],
    ids=["evaluation", "branch"],
)
def test_two_vocabularies_of_one_size_in_one_study_are_refused(edited, tmp_path, wanted):
    data_dir = edited(lambda manifest: manifest | {"vocabulary_digest": "0" * 64})
    with pytest.raises(UserError, match="'tiny_code' and 'tiny_prose' have different vocabularies"):
        tiny.executor(wanted, tmp_path / "runs", data_dir)


def test_the_plan_says_how_many_bytes_a_training_token_is(edited, tmp_path):
    """D counts training tokens of the whole mixture, whatever text is evaluated on."""
    data_dir = edited(lambda m: m | {"train": m["train"] | {"bytes": 3 * m["train"]["bytes"]}})
    wanted = tiny.study(config=tiny.changed(data=tiny.MIXED), tasks=(tiny.CODE,))
    made = tiny.executor(wanted, tmp_path, data_dir)
    made.write_plan()
    code = open_prepared(tiny.CODE, data_dir).train.bytes_per_token
    assert plan(RunStore(tmp_path), "tiny")["bytes_per_token"] == pytest.approx((code + 3 * code) / 2, rel=1e-6)
    assert plan(RunStore(tmp_path), "tiny")["law"]["holdout"] == "largest_n"
    without = tiny.executor(dataclasses.replace(wanted, law=None), tmp_path, data_dir)
    without.write_plan()
    assert plan(RunStore(tmp_path), "tiny")["law"] is None


def test_evaluation_bounds_its_logits_by_its_own_rows(tmp_path, data_dir, monkeypatch):
    """Where those of a training batch need no bound, those of many longer rows may."""
    monkeypatch.setattr(mesh, "_CPU_LOGITS_BYTES", 2 * 16 * 259 * 4)  # two rows of training
    rows, original = [], evaluate._by_row

    def spying(loss, execution):
        def by_row(params, batch, scalars):
            rows.append(len(batch["tokens"]))
            return original(loss, execution)(params, batch, scalars)

        return by_row

    monkeypatch.setattr(evaluate, "_by_row", spying)
    study = dataclasses.replace(tiny.study((tiny.decay(30),)), evaluation=EvaluationConfig((tiny.CODE,), 640, 128))
    made = tiny.execute(study, tmp_path, data_dir)
    assert made.runner.resolved(made.entries[1].config).loss_chunk == 0
    assert rows == [2, 2, 2]  # of five rows one on each device at a time
    assert len(made.store.evaluations(made.entries[1].run)) == 1
