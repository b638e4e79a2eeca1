"""Counts against the released models, the wind-tunnel table, and the arrays that initialisation makes."""

import dataclasses
from typing import Any

import jax
import pytest

from models import transformer
from models.config import NAMED, ModelConfig, ladder_model
from scaling.accounting import flops_per_token, parameter_counts, training_flops


@pytest.mark.parametrize(
    ("name", "non_embedding"),
    [
        # MiniCPM (arXiv 2404.06395), table 8, recomputed to the last parameter
        ("minicpm-9m", 9_426_240),
        ("minicpm-30m", 36_188_672),
        ("minicpm-70m", 65_964_160),
        ("minicpm-0.1b", 108_552_960),
        ("minicpm-0.17b", 166_216_064),
        ("minicpm-0.2b", 241_214_464),
        ("minicpm-0.5b", 498_614_592),
        # table 2, as printed
        ("minicpm-1.2b", 1_247_442_432),
        ("minicpm-2.4b", 2_442_057_984),
    ],
)
def test_published_parameter_counts(name: str, non_embedding: int) -> None:
    assert parameter_counts(NAMED[name]).non_embedding == non_embedding


def test_released_embeddings_are_the_published_ones() -> None:
    """Section 6.1: the embedding adds 0.3B to the 2.4B model and 0.2B (0.11B counted) to the 1.2B model."""
    assert parameter_counts(NAMED["minicpm-2.4b"]).embedding == 122_753 * 2304
    assert parameter_counts(NAMED["minicpm-2.4b"]).total == 2_724_880_896
    assert parameter_counts(NAMED["minicpm-1.2b"]).head == 0


GROUPED = ModelConfig(50, 3, 24, 6, 2, 10, 40, tied_embeddings=False)  # H h differs from D


@pytest.mark.parametrize("config", [GROUPED, ladder_model(16, 259), NAMED["minicpm-1.2b"]])
def test_counts_are_those_of_the_arrays(config: ModelConfig) -> None:
    shapes = jax.eval_shape(lambda: transformer.init(config, 0))
    measured = dict.fromkeys(("embedding", "head", "attention", "mlp", "norms"), 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        keys = [entry.key for entry in path]
        group = "norms" if "scale" in keys else keys[1] if keys[0] == "blocks" else keys[0]
        measured[group] += leaf.size
    counts = parameter_counts(config)
    assert dataclasses.asdict(counts) == measured
    assert counts.total == sum(measured.values())


@pytest.mark.parametrize("config", [GROUPED, ladder_model(32, 259)])
def test_flops_are_those_of_the_compiled_products(config: ModelConfig) -> None:
    """Every matrix product of the traced forward pass, its FLOPs read off its shapes.

    The implementation multiplies the whole T x T square of scores, the count the causal half with its diagonal.
    """
    B, T = 2, 16
    tokens = jax.ShapeDtypeStruct((B, T), "int32")
    shapes = jax.eval_shape(lambda: transformer.init(config, 0))
    jaxpr = jax.make_jaxpr(lambda params, tokens: transformer.apply(config, params, tokens))(shapes, tokens)

    def products(jaxpr: Any) -> float:
        total = 0.0
        for equation in jaxpr.eqns:
            for inner in equation.params.values():
                if hasattr(inner, "eqns"):  # the body of a scan over `length` layers, of a call, ...
                    total += equation.params.get("length", 1) * products(inner)
            if equation.primitive.name == "dot_general":
                ((contracted, _), _) = equation.params["dimension_numbers"]
                depth = 1
                for axis in contracted:
                    depth *= equation.invars[0].aval.shape[axis]
                total += 2 * depth * equation.outvars[0].aval.size
        return total

    flops = flops_per_token(config, T)
    full_square = flops.forward + flops.attention * (T / ((T + 1) / 2) - 1)
    assert products(jaxpr) == pytest.approx(B * T * full_square, rel=1e-12)


def test_terms_of_the_released_model_by_hand() -> None:
    """MiniCPM-2.4B at 4096 tokens: 2 FLOPs a parameter in every product, 4 H h (T + 1) / 2 for attention a layer."""
    flops = flops_per_token(NAMED["minicpm-2.4b"], 4096)
    assert flops.projections == 2 * 40 * 4 * 2304**2
    assert flops.attention == 40 * 4 * 2304 * 2048.5
    assert flops.mlp == 2 * 40 * 3 * 2304 * 5760
    assert flops.head == 2 * 122_753 * 2304
    assert flops.training == 3 * (flops.projections + flops.attention + flops.mlp + flops.head)


def test_conventions() -> None:
    config, tokens = NAMED["minicpm-2.4b"], 1e9
    counts = parameter_counts(config)
    assert training_flops(config, 4096, tokens, "6ND") == 6 * 2_442_057_984 * tokens
    assert training_flops(config, 4096, tokens, "6ND_total") == 6 * 2_724_880_896 * tokens
    assert training_flops(config, 4096, tokens) == flops_per_token(config, 4096).training * tokens
    # without attention, and but for the gains that take part in no product, the count is 6 N_total D: the tied table
    # works once, as the head
    counted = training_flops(config, 1, tokens) - 3 * flops_per_token(config, 1).attention * tokens
    assert counted == pytest.approx(6 * (counts.total - counts.norms) * tokens)
