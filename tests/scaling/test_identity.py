import copy
import dataclasses
import json

import pytest
import tiny
from hypothesis import assume, given
from hypothesis import strategies as st

from models.config import RopeScaling, SelectionConfig
from scaling.config import ExecutionConfig, Parent, RunConfig, canonical, from_json, to_json
from scaling.identity import identity, run_id
from scaling.study import EvaluationConfig, LawConfig, plan_study

DIGESTS = {"tiny_code": "c0de", "tiny_prose": "9r05e"}
BRANCH = dataclasses.replace(
    tiny.whole(tiny.TRUNK, start=24, steps=6), data=tiny.MIXED, parent=Parent("0123456789abcdef", 24), branch="decay"
)

# the same with every field that came later, which is left out of an identity at its default
FULL = dataclasses.replace(
    BRANCH,
    model=dataclasses.replace(
        BRANCH.model,
        attention=("dense", "sparse"),
        sparse=SelectionConfig(block=8, kernel=4, stride=2, blocks=3, init_blocks=1, local_blocks=1, dense_len=16),
        rope_scaling=RopeScaling("longrope", 4.0, 16, (1.5, 2.5), (1.0, 1.25)),
    ),
)


def permitted(path):
    """How often data may be read is a permission, digests stand for definitions; the rest is mathematics."""
    return path == ("data", "max_epochs") or (
        path[:2] == ("data", "mixture") and path[3] == "task" and path[4] != "name"
    )


OTHER_WORDS = {
    "adamw": "muon",
    "float32": "bfloat16",
    "bytes": "sentencepiece",
    "files": "python_stdlib",
    "one_minus_sqrt": "linear",
    "exact": "coarse",
}
# where no other value of the same kind is valid by itself: fields of the model
OTHERS = {
    ("num_layers",): {"num_layers": 4, "attention": ("dense", "sparse") * 2},
    ("head_dim",): {"head_dim": 8, "rope_scaling": RopeScaling("longrope", 4.0, 16, (1.5, 2.5) * 2, (1.0, 1.25) * 2)},
    ("attention", 0): {"attention": ("sparse", "sparse")},
    ("attention", 1): {"attention": ("sparse", "dense")},
    ("sparse", "stride"): {"sparse": dataclasses.replace(FULL.model.sparse, stride=4)},
    ("sparse", "init_blocks"): {"sparse": dataclasses.replace(FULL.model.sparse, init_blocks=2)},
    ("rope_scaling", "kind"): {"rope_scaling": RopeScaling("dynamic_ntk", 4.0, 16)},
}


def leaves(data, path=()):
    if isinstance(data, dict | list | tuple):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, (*path, key))
    else:
        yield path


def plain():
    return json.loads(canonical(to_json(FULL) | {"data": {**to_json(FULL.data), "mixture": mixture()}}))


def mixture():
    return [copy.deepcopy(part) for part in to_json(BRANCH.data)["mixture"]]


def with_leaf(path, change):
    if path[0] == "model" and path[1:] in OTHERS:
        return dataclasses.replace(FULL, model=dataclasses.replace(FULL.model, **OTHERS[path[1:]]))
    data = plain()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = change(place[path[-1]])
    return from_json(RunConfig, data)


def other(value):
    """Another valid value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return OTHER_WORDS.get(value, value + "x")
    return value * 2 or 1


def digests_of(config):
    return {component.task.name: "d" for component in config.data.mixture}


def id_of(config):
    return run_id(config, digests_of(config))


@pytest.mark.parametrize("path", list(leaves(plain())), ids=lambda path: ".".join(map(str, path)))
def test_every_field_is_in_the_identity_unless_it_is_a_permission(path):
    assert (id_of(with_leaf(path, other)) == id_of(FULL)) == permitted(path)


def test_no_field_escapes_the_test_above():
    parts = (FULL, FULL.model, FULL.data, FULL.schedule, FULL.schedule.decay, FULL.optimizer)
    for config in (*parts, FULL.model.sparse, FULL.model.rope_scaling):
        assert all(value is not None for value in vars(config).values())


def test_a_field_that_came_later_is_no_part_of_an_identity_at_its_default():
    """So an id is the same as before there was the field; away from the default it is another run."""
    plain = identity(BRANCH, digests_of(BRANCH))["model"]
    assert not {"attention", "sparse", "rope_scaling"} & plain.keys()
    assert id_of(BRANCH) != id_of(FULL)


@given(st.sampled_from(["peak", "warmup_steps"]), st.integers(0, 9), st.integers(0, 9))
def test_ids_agree_exactly_where_configs_do(field, a, b):
    assume(field != "peak" or (a and b))
    ids = [id_of(with_leaf(("schedule", field), lambda _, x=x: x)) for x in (a, b)]
    assert (ids[0] == ids[1]) == (a == b)


def test_content_of_the_shards_is_in_the_identity():
    config = dataclasses.replace(tiny.TRUNK, data=tiny.MIXED)
    for name in DIGESTS:
        assert run_id(config, DIGESTS) != run_id(config, DIGESTS | {name: "other"})


def ids(study):
    return {entry.label: entry.run for entry in plan_study(study, DIGESTS)}


@pytest.mark.parametrize(
    "changes",
    [
        {"branches": (tiny.decay(30, label="a"), tiny.decay(200, label="b"))},  # a longer trunk, another name
        {"tasks": (tiny.CODE, tiny.PROSE)},
        {"name": "other"},
        {"law": LawConfig(n="N_total")},
        {"execution": ExecutionConfig(devices=1, microbatches=2, steps_per_dispatch=1, remat="block")},
        {"config": dataclasses.replace(tiny.TRUNK, data=dataclasses.replace(tiny.DATA, max_epochs=9))},
    ],
    ids=["length", "evaluation", "name", "law", "execution", "epochs"],
)
def test_trunk_is_the_same_run_whatever_is_asked_of_it(changes):
    first = plan_study(tiny.study(), DIGESTS)
    second = plan_study(tiny.study(**changes), DIGESTS)
    assert first[0].run == second[0].run
    assert first[1].run == second[1].run  # the branch at step 24 is in both


def test_evaluation_is_no_part_of_any_id():
    one = tiny.study()
    two = dataclasses.replace(one, evaluation=EvaluationConfig((tiny.PROSE,), 99, 8))
    assert ids(one) == ids(two)


def test_id_of_a_run_stays_what_it_was():
    """Changed on purpose only, with `MATHEMATICS`: every run that exists would be trained again."""
    assert id_of(BRANCH) == "71af82c65cc3b68e"
