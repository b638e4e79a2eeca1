"""Standard parametrisation: what it initialises, multiplies and learns with, against muP's."""

import jax
import numpy as np
import pytest

from models import transformer
from models.config import ladder_model
from scaling.config import OptimizerConfig
from scaling.optimizers import _group_rates
from scaling.tuning.parametrization import standard

MUP = ladder_model(64, 259, base_width=16)


def test_at_the_base_width_the_two_are_one():
    assert standard(ladder_model(16, 259, base_width=16)) == ladder_model(16, 259, base_width=16)


def test_one_rate_for_all_and_variances_of_one_over_fan_in():
    ours = standard(MUP)
    assert set(_group_rates(OptimizerConfig(), ours).values()) == {1.0}
    params = jax.device_get(transformer.init(ours, 0))
    base = ladder_model(16, 259, base_width=16).init_std * 16**0.5  # std sqrt(fan_in) at the base width
    for name, fan_in in (("gate", 64), ("down", 160)):
        tensor = params["blocks"]["mlp"][name]
        # fan-in grows in proportion to width, so 1 / sqrt(width) is 1 / sqrt(fan_in) up to each matrix's constant
        assert np.std(tensor) * fan_in**0.5 == pytest.approx(base * (fan_in / 64) ** 0.5, rel=0.02)
    assert np.std(params["embedding"]) * 64**0.5 == pytest.approx(base, rel=0.02)


def test_embedding_output_and_hidden_matrices_start_as_in_mup_and_logits_are_not_divided():
    ours = standard(MUP)
    theirs, mine = (jax.device_get(transformer.init(model, 0)) for model in (MUP, ours))
    np.testing.assert_allclose(mine["blocks"]["mlp"]["up"], theirs["blocks"]["mlp"]["up"], rtol=1e-6)
    np.testing.assert_allclose(ours.scale_emb * mine["embedding"], MUP.scale_emb * theirs["embedding"], rtol=1e-6)
    tokens = np.arange(24).reshape(2, 12)
    logits, undivided = (transformer.apply(m, p, tokens) for m, p in ((MUP, theirs), (ours, mine)))
    # over m = 4 in muP; in standard parametrisation by the table's sqrt(m) = 2
    np.testing.assert_allclose(undivided, 2 * logits, rtol=1e-3, atol=1e-4)
