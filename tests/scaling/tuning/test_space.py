import dataclasses

import pytest
import tiny

from scaling.config import to_json
from scaling.errors import UserError
from scaling.tuning.space import PLACES, Parameter, parse_parameter, setting_of, with_setting


def test_parameters_are_read_as_written():
    assert parse_parameter("learning_rate=1e-3:0.1") == Parameter("learning_rate", 1e-3, 0.1, log=True)
    assert parse_parameter("weight_decay=0:0.2:linear") == Parameter("weight_decay", 0.0, 0.2, log=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr=1e-3:0.1", "cannot search over 'lr': one of learning_rate, init_std"),
        ("learning_rate=0.1:1e-3", "learning_rate from 0.1 to 0.001 is no range"),
        ("learning_rate=0.1:0.1", "is no range"),
        ("learning_rate=0.1:nan", "is no range"),
        ("weight_decay=0:0.1", "write weight_decay=0:0.1:linear for a range that includes 0"),
        ("init_std=-1:1:linear", "init_std from -1"),
        ("learning_rate", "'learning_rate' is no range to search: write it as learning_rate=1e-3:0.1"),
        ("learning_rate=small:large", "is no range to search"),
        ("learning_rate=1e-3:0.1:cubic", "is no range to search"),
        ("learning_rate=1e-3:0.1:linear:2", "is no range to search"),
    ],
)
def test_bad_ranges_are_refused_in_one_line(text, words):
    with pytest.raises(UserError) as error:
        parse_parameter(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_setting_changes_what_it_names_and_nothing_else():
    wanted = {name: 0.5 + i for i, name in enumerate(PLACES)}
    changed = with_setting(tiny.TRUNK, wanted)
    assert setting_of(changed) == wanted
    assert with_setting(changed, setting_of(tiny.TRUNK)) == tiny.TRUNK
    one = with_setting(tiny.TRUNK, {"scale_emb": 3.0})
    assert to_json(one) == to_json(tiny.TRUNK) | {"model": to_json(dataclasses.replace(tiny.MODEL, scale_emb=3.0))}
