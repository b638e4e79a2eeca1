"""The coordinate check: muP passes it, standard parametrisation does not, and a rule left out is named."""

import copy
import dataclasses
import math

import jax
import numpy as np
import pandas as pd
import pytest

from models import transformer
from models.config import ModelConfig
from scaling import optimizers
from scaling.config import OptimizerConfig
from scaling.tuning import coordinate_check as check
from scaling.tuning.parametrization import standard
from scaling.tuning.width_exponents import HIDDEN, broken_rules, exponents

WIDTHS = (16, 256)
TOKENS = check.zipf_batch(67, rows=2, length=16)


def model(width):
    return ModelConfig(67, 2, width, width // 8, width // 8, 8, 2 * width, mup_base_width=16)


MODELS = [model(width) for width in WIDTHS]
UNTIED = [dataclasses.replace(m, tied_embeddings=False) for m in MODELS]


def measured(models, steps=0):
    return check.coordinate_check(models, TOKENS, learning_rate=0.01, steps=steps)


def found(models, steps=0):
    return broken_rules(exponents(measured(models, steps)))


def found_at_large_width(sizes, steps=0, models=MODELS):
    """For a rule that is patched: at the base width every rule is 1, and sizes are those without the patch."""
    base = sizes[(sizes["width"] == WIDTHS[0]) & (sizes["step"] <= steps)]
    return broken_rules(exponents(pd.concat([base, measured(models[1:], steps)])))


@pytest.fixture(scope="module")
def sizes():
    return measured(MODELS, steps=2)


@pytest.fixture(scope="module")
def untied_sizes():
    return measured(UNTIED, steps=1)


@pytest.fixture
def compiled_anew():
    """Forgets a program before the test patches what is part of it, and again afterwards."""
    programs = []

    def forget(program):
        program.clear_cache()
        programs.append(program)

    yield forget
    for program in programs:
        program.clear_cache()


def test_mup_passes(sizes):
    table = exponents(sizes)
    assert broken_rules(table) == []
    assert not table["wrong"].any()
    first = table[(table["step"] == 1) & (table["quantity"] == "update")].set_index("part")["exponent"]
    assert first[list(HIDDEN)].to_numpy() == pytest.approx(-1.0, abs=0.01)  # Adam's first step is a sign
    assert first[["embedding", "attention_norm", "final_norm"]].to_numpy() == pytest.approx(0.0, abs=0.01)


def test_mup_passes_with_a_head_of_its_own(untied_sizes):
    table = exponents(untied_sizes)
    assert broken_rules(table) == []
    assert "head" in set(table["part"][table["quantity"] == "update"])


def test_first_step_has_the_size_of_its_rate(sizes):
    wide = sizes[(sizes["width"] == 256) & (sizes["step"] == 1) & (sizes["quantity"] == "update")].set_index("part")
    assert wide.loc["down", "rms"].to_numpy() == pytest.approx(0.01 / 16, rel=0.02)
    assert wide.loc["mlp_norm", "rms"].to_numpy() == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("group", ["embedding", "hidden", "norm"])
def test_a_group_with_the_wrong_rate_is_named(group, sizes, monkeypatch, compiled_anew):
    compiled_anew(check._update)
    right = optimizers._group_rates

    def wrong(config, model):
        rates = right(config, model)
        return rates | {group: rates[group] * model.width_multiplier ** (1 if group == "hidden" else -1)}

    monkeypatch.setattr(optimizers, "_group_rates", wrong)
    norms = ["attention_norm", "mlp_norm", "final_norm"]
    parts = {"embedding": ["embedding"], "hidden": HIDDEN, "norm": norms}[group]
    assert found_at_large_width(sizes, steps=1) == [f"learning rate of {part}" for part in parts]


def test_an_untied_heads_wrong_rate_is_named(untied_sizes, monkeypatch, compiled_anew):
    compiled_anew(check._update)
    right = optimizers._group_rates

    def wrong(config, model):
        rates = right(config, model)
        return rates | {"head": rates["head"] / model.width_multiplier}

    monkeypatch.setattr(optimizers, "_group_rates", wrong)
    assert found_at_large_width(untied_sizes, steps=1, models=UNTIED) == ["learning rate of head"]


@pytest.mark.parametrize("part", ["embedding", *HIDDEN, "final_norm", "head"])
def test_a_tensor_with_the_wrong_initial_size_is_named(part, monkeypatch):
    right = transformer.init

    def wrong(config, *arguments):
        factor = math.sqrt(config.width_multiplier)
        scaled = lambda path, x: factor * x if part in {entry.key for entry in path} else x  # noqa: E731
        return jax.tree_util.tree_map_with_path(scaled, right(config, *arguments))

    monkeypatch.setattr(transformer, "init", wrong)
    assert found(UNTIED if part == "head" else MODELS) == [f"initial size of {part}"]


@pytest.mark.parametrize(("field", "parts"), [("scale_emb", ["embedding"]), ("scale_depth", ["attention", "mlp"])])
def test_a_multiplier_that_moves_with_width_is_named(field, parts):
    changed = [dataclasses.replace(m, **{field: getattr(m, field) * math.sqrt(m.width_multiplier)}) for m in MODELS]
    assert found(changed) == [f"multiplier of {part}" for part in parts]


def test_what_is_looked_at_is_what_the_model_computes():
    """The stream ends where the model's own features come from; effects are what a changed matrix changes."""
    config = model(16)
    params, other = (jax.device_get(transformer.init(config.compiled(), seed, 0.1)) for seed in (0, 1))
    rates = optimizers.hyper(OptimizerConfig(), config, 0.0)
    look = jax.jit(lambda params: check.forward(config, params, other, TOKENS[:, :-1], rates))
    activations, effects = look(params)
    x_BTD = np.asarray(activations["embedding"][0] + activations["attention"].sum(0) + activations["mlp"].sum(0))
    np.testing.assert_allclose(x_BTD, activations["residual"][-1], rtol=1e-4, atol=1e-4)
    unit_BTD = x_BTD / np.sqrt(np.mean(x_BTD**2, axis=-1, keepdims=True))
    np.testing.assert_allclose(unit_BTD, activations["features"][0], rtol=1e-3, atol=1e-4)
    for module, name, part in (("attention", "output", "attention"), ("mlp", "down", "mlp")):
        changed = copy.deepcopy(params)
        changed["blocks"][module][name][1] += other["blocks"][module][name][1]
        moved_BTD = (look(changed)[0][part] - activations[part])[1] / (config.scale_depth / math.sqrt(2))
        np.testing.assert_allclose(moved_BTD, effects[name][1], rtol=1e-3, atol=1e-4)


def test_logits_that_are_not_divided_are_named(sizes, monkeypatch, compiled_anew):
    compiled_anew(check._sizes)
    right = transformer.features
    monkeypatch.setattr(transformer, "features", lambda model, *a, **k: model.width_multiplier * right(model, *a, **k))
    assert found_at_large_width(sizes) == ["multiplier of logits"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named_with_its_step_and_width(sizes, value):
    """A run that diverged keeps no rule: what it leaves of the table would pass."""
    wide = (sizes["width"] == 256) & (sizes["step"] == 2)
    activations = sizes["quantity"].isin(["activation", "change"])
    table = exponents(sizes.assign(rms=sizes["rms"].mask(wide & activations, value)))
    assert broken_rules(table) == ["not finite from step 2 at width 256"]
    lost = table[table["not_finite"] == 256]
    assert set(lost["quantity"]) == {"activation", "change"}
    assert lost["wrong"].all()
    assert lost["exponent"].isna().all()
    other = exponents(sizes.assign(rms=sizes["rms"].mask(sizes["step"] == 1, value)))  # at all widths
    assert broken_rules(other)[0] == "not finite from step 1 at width 16"


@pytest.mark.slow
def test_standard_parametrisation_fails_and_agrees_at_the_base_width():
    assert standard(MODELS[0]) == MODELS[0]
    rules = found([standard(m) for m in MODELS], steps=3)
    assert {"initial size of embedding", *(f"learning rate of {part}" for part in HIDDEN)} <= set(rules)
