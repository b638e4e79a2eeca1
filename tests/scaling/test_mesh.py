import contextlib
import dataclasses

import jax
import pytest
import tiny

from models.config import NAMED, SelectionConfig
from scaling import mesh
from scaling.config import DataConfig, ExecutionConfig
from scaling.errors import UserError


def rows_of_batch(rows):
    return dataclasses.replace(tiny.DATA, batch_size=rows)


@pytest.mark.parametrize(
    ("there", "rows", "used"), [(1, 4, 1), (3, 64, 2), (6, 64, 4), (12, 64, 8), (2, 5, 1), (6, 6, 6)]
)
def test_as_many_devices_as_divide_the_batch(monkeypatch, there, rows, used):
    monkeypatch.setattr(jax, "device_count", lambda: there)
    assert mesh.resolve(ExecutionConfig(), rows_of_batch(rows), tiny.MODEL).devices == used


@pytest.mark.parametrize("rows", [1, 6, 12, 64, 100])
def test_microbatches_divide_a_devices_rows_and_fit_its_cache(rows):
    data = DataConfig(tiny.DATA.mixture, sequence_length=128, batch_size=rows)
    found = mesh.resolve(ExecutionConfig(devices=1), data, tiny.MODEL)
    assert rows % found.microbatches == 0
    assert rows // found.microbatches * 128 <= 512


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (ExecutionConfig(devices=3), "execution.devices is 3: it must divide the batch of 4 rows"),
        (ExecutionConfig(devices=4), "at most the 2 devices there are"),
        (ExecutionConfig(devices=1, microbatches=3), "execution.microbatches is 3: it must divide the 4 rows"),
    ],
)
def test_an_explicit_choice_that_cannot_be_had_is_refused(asked, says):
    with pytest.raises(UserError, match=says):
        mesh.resolve(asked, tiny.DATA, tiny.MODEL)


@pytest.mark.parametrize(
    ("backend", "model", "length", "chosen"),
    [
        ("cpu", {"compute_dtype": "bfloat16", "head_dim": 64}, 4096, "batched_matmul"),
        ("gpu", {"compute_dtype": "bfloat16", "head_dim": 64}, 4096, "cudnn"),
        ("gpu", {"compute_dtype": "float32", "head_dim": 64}, 4096, "dot_product_attention"),
        ("gpu", {"compute_dtype": "bfloat16", "head_dim": 12}, 4096, "dot_product_attention"),
        ("gpu", {"compute_dtype": "bfloat16", "head_dim": 256}, 4096, "dot_product_attention"),
        ("gpu", {"compute_dtype": "bfloat16", "head_dim": 64}, 127, "dot_product_attention"),
        ("tpu", {"compute_dtype": "bfloat16", "head_dim": 64}, 4096, "dot_product_attention"),
    ],
)
def test_cudnn_attends_where_it_can_and_where_the_shape_alone_forbids_it_that_is_said_once(
    backend, model, length, chosen
):
    mesh._warn_of_slow_attention.cache_clear()
    data = DataConfig(tiny.DATA.mixture, sequence_length=length, batch_size=4)
    fallback = (backend, model["compute_dtype"], chosen) == ("gpu", "bfloat16", "dot_product_attention")
    said = f"heads of {model['head_dim']} and rows of {length} tokens are not for cuDNN's flash attention, .* choose"
    with pytest.warns(UserWarning, match=said) if fallback else contextlib.nullcontext():
        found = mesh.resolve(ExecutionConfig(), data, dataclasses.replace(tiny.MODEL, **model), backend)
    assert found.attention == chosen
    again = mesh.resolve(ExecutionConfig(), data, dataclasses.replace(tiny.MODEL, **model), backend)
    assert again == found  # a second warning would be an error here


@pytest.mark.parametrize(("backend", "limit"), [("cpu", 2**24), ("gpu", 2**31)])
@pytest.mark.parametrize(
    ("vocab_size", "rows", "length"),
    [(259, 4, 16), (8_192, 16, 128), (16_384, 16, 128), (73_440, 8, 4096), (122_753, 32, 4096)],
)
def test_a_chunk_of_logits_is_bounded_whole_tiles_and_as_long_as_the_others(backend, limit, vocab_size, rows, length):
    model = dataclasses.replace(tiny.MODEL, vocab_size=vocab_size)
    data = DataConfig(tiny.DATA.mixture, sequence_length=length, batch_size=rows)
    found = mesh.resolve(ExecutionConfig(devices=1), data, model, backend)
    targets, chunk = rows * length // found.microbatches, found.loss_chunk
    if chunk == 0:
        assert targets * vocab_size * 4 <= limit
        return
    chunks = -(-targets // chunk)
    assert chunk % 128 == 0
    assert (chunk - 128) * vocab_size * 4 < limit < targets * vocab_size * 4
    assert chunks * chunk - targets < chunks * 128  # filled up by less than a tile a chunk


@pytest.mark.parametrize(
    ("there", "runs", "asked", "expected"),
    [
        (1, 8, 0, (1, 1, 8)),  # devices of a run, sets of devices, runs of a set
        (2, 1, 0, (2, 1, 1)),
        (2, 3, 0, (1, 2, 2)),
        (8, 3, 0, (4, 2, 2)),
        (8, 8, 0, (1, 8, 1)),
        (8, 9, 0, (1, 8, 2)),
        (8, 8, 4, (4, 2, 4)),
        (2, 1, 1, (1, 2, 1)),  # the second set has nothing to do
    ],
)
def test_devices_go_to_runs_first_and_all_of_them_to_the_mesh(monkeypatch, there, runs, asked, expected):
    monkeypatch.setattr(jax, "device_count", lambda: there)
    found = mesh.resolve(ExecutionConfig(devices=asked), rows_of_batch(64), tiny.MODEL, runs=runs)
    assert (found.devices, found.run_devices, found.lanes) == expected
    assert found.runs >= runs


@pytest.mark.parametrize(
    ("there", "backend", "model", "expected"),
    [
        (2, "cpu", tiny.MODEL, 8),
        (1, "cpu", tiny.MODEL, 1),
        (1, "gpu", tiny.MODEL, 8),
        (1, "gpu", NAMED["minicpm-0.1b"], 1),
        (4, "gpu", NAMED["minicpm-0.1b"], 4),
        (1, "gpu", dataclasses.replace(tiny.MODEL, attention="sparse", sparse=SelectionConfig()), 1),
    ],
)
def test_groups_are_made_where_there_is_something_to_gain(monkeypatch, there, backend, model, expected):
    monkeypatch.setattr(jax, "device_count", lambda: there)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert mesh.room(ExecutionConfig(), tiny.changed(model=model)).runs == expected
    assert mesh.room(ExecutionConfig(runs_per_group=3), tiny.changed(model=model)).runs == 3


@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("runs", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize("there", [1, 2, 3, 4, 6, 16])
def test_groups_are_planned_for_the_sets_of_devices_that_they_get(monkeypatch, there, runs, asked):
    monkeypatch.setattr(jax, "device_count", lambda: there)
    execution = ExecutionConfig(devices=min(asked, there))
    made = mesh.resolve(execution, tiny.DATA, tiny.MODEL, runs=runs)
    assert mesh.room(execution, tiny.TRUNK).sets(runs) == made.run_devices
    side_by_side = dataclasses.replace(execution, run_axis="vmap")
    assert mesh.room(side_by_side, tiny.TRUNK).sets(runs) == 1


def test_what_the_host_holds_of_a_dispatch_bounds_the_group():
    big = tiny.changed(data=dataclasses.replace(tiny.DATA, batch_size=1024, sequence_length=2047))
    assert mesh.room(ExecutionConfig(), big).runs == 1
    assert mesh.room(ExecutionConfig(steps_per_dispatch=4), big).runs == 4
    with pytest.raises(UserError, match="runs_per_group is -1"):
        mesh.room(ExecutionConfig(runs_per_group=-1), big)


def test_only_runs_side_by_side_are_in_the_fingerprint():
    def fingerprint(runs, run_axis):
        return mesh.resolve(ExecutionConfig(run_axis=run_axis), tiny.DATA, tiny.MODEL, runs=runs).fingerprint()

    assert fingerprint(4, "map") == fingerprint(9, "map")
    assert fingerprint(4, "map")["vmapped_runs"] == 1
    assert fingerprint(4, "vmap")["vmapped_runs"] == 2
    assert fingerprint(9, "vmap")["vmapped_runs"] == 5
