"""Attention by layer and rotary scaling as data: one way to write a model, and what is refused."""

import dataclasses

import pytest

from models.config import ModelConfig, RopeScaling, SelectionConfig, ntk_theta
from scaling.config import RunConfig, canonical, from_json, to_json

DENSE = ModelConfig(31, num_layers=4, d_model=16, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=24)
SPARSE = SelectionConfig(block=4, kernel=2, stride=1, blocks=3, init_blocks=1, local_blocks=1, dense_len=8)


def changed(**fields):
    return dataclasses.replace(DENSE, **fields)


def test_layers_of_one_kind_that_follow_each_other_are_a_span():
    mixed = changed(attention=("dense", "sparse", "sparse", "dense"), sparse=SPARSE)
    assert mixed.layer_spans(9) == [("dense", 0, 1), ("sparse", 1, 3), ("dense", 3, 4)]
    assert mixed.layer_spans(8) == [("dense", 0, 4)]  # a row that is attended densely by every layer
    assert changed(attention="sparse", sparse=SPARSE).layer_spans(9) == [("sparse", 0, 4)]
    assert DENSE.layer_spans(10**6) == [("dense", 0, 4)]


def test_a_model_has_one_way_to_be_written():
    assert changed(attention=("dense",) * 4) == DENSE
    assert changed(attention=("sparse",) * 4, sparse=SPARSE) == changed(attention="sparse", sparse=SPARSE)


def test_fields_that_came_later_are_left_out_at_their_defaults_alone():
    assert not {"attention", "sparse", "rope_scaling"} & to_json(DENSE).keys()
    full = changed(
        attention=("dense", "sparse", "dense", "sparse"),
        sparse=SPARSE,
        rope_scaling=RopeScaling("longrope", 4.0, 512, (2.0, 3.0, 4.0, 5.0), (1.0, 1.0, 1.0, 1.5)),
    )
    plain = to_json(full)
    assert plain["attention"] == ("dense", "sparse", "dense", "sparse")
    assert plain["sparse"]["blocks"] == 3  # a part's own defaults are not left out
    for model in (DENSE, full, changed(attention="sparse", sparse=SelectionConfig())):
        assert from_json(ModelConfig, to_json(model)) == model
        assert canonical(to_json(from_json(ModelConfig, to_json(model)))) == canonical(to_json(model))
    assert RunConfig.__dataclass_fields__["model"].type is ModelConfig


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attention": "spare"}, "'spare'.*'dense', 'sparse', or a tuple .* 4 layers"),
        ({"attention": ("dense", "sparse"), "sparse": SPARSE}, "4 layers"),
        ({"attention": "sparse"}, "need a SelectionConfig"),
        ({"sparse": SPARSE}, "without them has none"),
        ({"rope_scaling": RopeScaling("longrope", 2.0, 64, (1.0,) * 3, (1.0,) * 3)}, "head_dim 8 needs 4 of each"),
    ],
)
def test_models_that_make_no_sense_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        changed(**fields)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("yarn", 2.0), "'yarn'"),
        (("ntk", 0.5), "0.5"),
        (("dynamic_ntk", 2.0), "original_length is 0"),
        (("longrope", 2.0, 64), "needs both"),
        (("ntk", 2.0, 0, (1.0,), (1.0,)), "belong to 'longrope'"),
    ],
)
def test_scalings_that_make_no_sense_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        RopeScaling(*arguments)


def test_the_ntk_base_divides_the_slowest_frequency_by_the_factor():
    slowest = [base ** (-30 / 32) for base in (1e4, ntk_theta(1e4, 8.0, 32))]
    assert slowest[0] / slowest[1] == pytest.approx(8.0)
