"""What the studies of long rows and sparse attention ask: that they compare what they say."""

import re

import numpy as np
import pytest

from experiments import attention_law, sparse_long_context
from scaling.accounting import visible_tokens
from scaling.config import to_json
from scaling.study import plan_study, training

STUDIES = {"sparse_long_context": sparse_long_context, "attention_law": attention_law}


@pytest.fixture(scope="module")
def plans():
    return {name: {entry.label: entry for entry in plan_study(module.study())} for name, module in STUDIES.items()}


@pytest.mark.parametrize("name", STUDIES)
def test_the_cost_in_the_docstring_is_what_is_trained(plans, name):
    runs = training([entry for entry in plans[name].values() if entry.start < entry.stop])
    flops = sum(6 * entry.entry()["N"] * entry.tokens(entry.start, entry.stop) for entry in runs)
    docstring = STUDIES[name].__doc__
    (said,) = re.findall(r"^Cost: ([\d.e+]+) FLOPs", docstring, re.MULTILINE)
    assert float(said) == pytest.approx(flops, rel=0.02)
    assert STUDIES[name].study().question == docstring.split("\n")[0]


def test_dense_and_sparse_branches_differ_in_attention_alone(plans):
    dense, sparse = (plans["sparse_long_context"][f"w64/{name}"] for name in ("dense", "sparse"))
    ours, theirs = to_json(sparse.config), to_json(dense.config)
    assert {name for name in ours["model"] if ours["model"][name] != theirs["model"].get(name)} == {
        "attention",
        "sparse",
    }
    for config in (ours, theirs):
        config.pop("model")
    assert ours == theirs
    assert (sparse.start, sparse.stop) == (dense.start, dense.stop)
    assert sparse.config.data.tokens_per_step == plans["sparse_long_context"]["w64"].config.data.tokens_per_step


def test_a_token_sees_as_much_as_a_row_of_the_trunk_had(plans):
    plan = plans["sparse_long_context"]
    selection, trunk = plan["w64/sparse"].config.model.sparse, plan["w64"].config.data
    assert selection.visible_tokens == selection.dense_len == trunk.sequence_length
    assert visible_tokens(selection, 8 * trunk.sequence_length) < trunk.sequence_length
    published = type(selection)()
    for ours, theirs in ((selection.kernel, published.kernel), (selection.stride, published.stride)):
        assert ours / selection.block == theirs / published.block


def test_untrained_branches_end_where_they_begin(plans):
    untrained = {label for label, entry in plans["sparse_long_context"].items() if entry.start == entry.stop}
    assert untrained == {"w64/untrained", "w64/ntk-untrained", "w64/dense/sparse-untrained"}


def test_rates_of_the_branches_fall_to_nothing(plans):
    for name in ("dense", "sparse"):
        decay = plans["sparse_long_context"][f"w64/{name}"].config.schedule.decay
        assert (decay.start, decay.start + decay.steps, decay.final) == (1600, 1850, 0.0)


def test_there_is_as_much_generated_text_as_the_rows_take():
    """Half of the trunk's tokens and of a branch's; and as much held out as the evaluation reads."""
    for task, tokens in ((sparse_long_context.PAIRS, 1600 * 2048), (sparse_long_context.LONG_PAIRS, 250 * 2048)):
        text = task.source.key_value
        mean = (text.bytes - text.shortest) / np.log(text.bytes / text.shortest) if text.shortest else text.bytes
        assert 0.95 * text.documents * mean * (1 - task.heldout_fraction) > tokens
    heldout = text.documents * text.bytes * task.heldout_fraction
    assert heldout > 1.5 * sparse_long_context.study().evaluation.tokens


def test_runs_of_the_attention_law_differ_in_attention_alone(plans):
    plan = plans["attention_law"]
    dense = plan["dense-1024"]
    assert len(plan) == 8
    for label, entry in plan.items():
        assert entry.entry()["N"] == dense.entry()["N"]
        assert entry.entry()["D_total"] == dense.entry()["D_total"]
        plain = to_json(entry.config)
        for name in ("attention", "sparse"):
            plain["model"].pop(name, None)
        assert plain == to_json(dense.config)
        if label != "dense-1024":
            kind, visible = label.split("-")
            selection = entry.config.model.sparse
            assert selection.visible_tokens == int(visible)
            chosen = selection.blocks - selection.init_blocks - selection.local_blocks
            assert (chosen == 0) == (kind == "window")


def test_seeing_less_costs_less(plans):
    by_visible = {e.config.model.sparse.visible_tokens: e for n, e in plans["attention_law"].items() if "window" in n}
    costs = [by_visible[visible].entry()["flops"]["counted"] for visible in sorted(by_visible)]
    assert costs == sorted(costs)
    assert costs[-1] < plans["attention_law"]["dense-1024"].entry()["flops"]["counted"]
