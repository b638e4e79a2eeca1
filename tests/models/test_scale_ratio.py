"""What the two tuned multipliers of a pre-norm model have in common."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models import transformer
from models.config import ModelConfig

# without the epsilon of its norms, which knows a stream's size
MODEL = ModelConfig(31, 2, 8, 2, 1, 4, 16, rms_norm_eps=1e-30)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 9), dtype=np.int32)


@jax.jit
def features(params, scale_emb, scale_depth):
    return transformer.features(MODEL, params, TOKENS, scales=transformer.Scales(scale_emb, scale_depth))


@settings(deadline=None)  # the first example compiles
@given(st.floats(0.5, 20), st.floats(0.2, 3), st.floats(0.05, 20))
def test_scale_emb_and_scale_depth_act_by_their_ratio(scale_emb, scale_depth, factor):
    """Every block reads a normalised stream, so a stream and all that is added to it may grow together."""
    params = transformer.init(MODEL, 0)
    found = features(params, scale_emb, scale_depth)
    grown = features(params, factor * scale_emb, factor * scale_depth)
    np.testing.assert_allclose(grown, found, rtol=1e-3, atol=1e-4 * np.abs(found).max())


def test_their_ratio_matters():
    params = transformer.init(MODEL, 0)
    assert np.abs(features(params, 12.0, 1.4) - features(params, 12.0, 0.7)).max() > 1e-2
