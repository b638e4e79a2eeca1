import json

import pytest
import tiny

from scaling.config import ExecutionConfig, RunConfig, ScheduleConfig, from_json, to_json
from scaling.errors import UserError


def test_a_run_survives_json():
    for config in (tiny.TRUNK, tiny.whole(tiny.TRUNK, 5, 3), tiny.changed(data=tiny.MIXED)):
        assert from_json(RunConfig, json.loads(json.dumps(to_json(config)))) == config


def test_whole_numbers_serve_as_real_ones():
    assert from_json(ScheduleConfig, {"peak": 1, "warmup_steps": 3}) == ScheduleConfig(1.0, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"devices": 3.7}, "3.7 is not int"),
        ({"devices": True}, "True is not int"),
        ({"devices": "2"}, "'2' is not int"),
        ({"devcies": 2}, r"unknown key devcies \(keys of ExecutionConfig: devices, microbatches"),
        ({"remat": "all"}, "all"),
    ],
)
def test_what_is_no_execution_is_refused(change, says):
    with pytest.raises(UserError, match=says):
        from_json(ExecutionConfig, to_json(ExecutionConfig()) | change)
