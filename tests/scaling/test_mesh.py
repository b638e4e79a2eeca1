import dataclasses

import jax
import pytest
import tiny

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
    assert mesh.resolve(ExecutionConfig(), rows_of_batch(rows), 4).devices == used


@pytest.mark.parametrize("rows", [1, 6, 12, 64, 100])
def test_microbatches_divide_a_devices_rows_and_fit_its_cache(rows):
    data = DataConfig(tiny.DATA.mixture, sequence_length=128, batch_size=rows)
    found = mesh.resolve(ExecutionConfig(devices=1), data, 4)
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
        mesh.resolve(asked, tiny.DATA, 4)
