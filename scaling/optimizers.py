"""AdamW and Muon with muP learning-rate groups, as optax transformations over the parameters' nested dict.

Groups, by path (rates: table in `models.transformer`; m = d_model / mup_base_width):

=========  =========================================  ============================  ============
group      parameters                                 learning rate                 weight decay
=========  =========================================  ============================  ============
embedding  the token table                            base                          yes
head       the untied output table                    base                          yes
hidden     every other matrix                         base / m (Muon: see below)    yes
norm       RMSNorm gains                              base                          no
=========  =========================================  ============================  ============

Weight decay is Megatron's (and PyTorch's) AdamW: it is multiplied by the group's learning rate, so that a hidden
matrix of width m decays by base / m * weight_decay a step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from models.config import ModelConfig
from scaling.config import OptimizerConfig

MUON_MOMENTUM = 0.95
MUON_RMS = 0.2


class Hyper(NamedTuple):
    """What runs and steps may differ in without a new compilation: scalars that enter the compiled step.

    Attributes:
        learning_rate: base rate of this step.
        weight_decay: coefficient, before the learning rate.
        clip_norm: largest global norm of the gradient.
        scale_emb: the model's multiplier of the embedding output.
        scale_depth: the model's multiplier of block outputs, before 1 / sqrt(L).
    """

    learning_rate: ArrayLike
    weight_decay: ArrayLike
    clip_norm: ArrayLike
    scale_emb: ArrayLike
    scale_depth: ArrayLike


def hyper(config: OptimizerConfig, model: ModelConfig, learning_rate: ArrayLike) -> Hyper:
    """The configured hyper-parameters at a learning rate or at several, float32 and of its shape."""
    rate = np.asarray(learning_rate, np.float32)
    values = (config.weight_decay, config.clip_norm, model.scale_emb, model.scale_depth)
    return Hyper(rate, *(np.full(rate.shape, value, np.float32) for value in values))


def parameter_groups(params: Any) -> Any:
    """The group of every parameter: a tree like `params` of "embedding", "head", "hidden" and "norm".

    Raises:
        ValueError: a parameter outside the known paths.
    """

    def group(path: tuple[Any, ...], _: Any) -> str:
        keys = [entry.key for entry in path]
        if keys[0] in ("embedding", "head"):
            return str(keys[0])
        if any("norm" in key for key in keys):
            return "norm"
        if keys[0] == "blocks":
            return "hidden"
        raise ValueError(f"parameter {'/'.join(keys)} belongs to no learning-rate group: name its group here")

    return jax.tree_util.tree_map_with_path(group, params)


def _group_rates(config: OptimizerConfig, model: ModelConfig) -> dict[str, float]:
    """Each group's learning rate in units of the base rate.

    Muon's update of a hidden matrix has RMS `MUON_RMS` like AdamW's (Liu et al., arXiv 2502.16982, eq. 4), and
    so spectral norm MUON_RMS sqrt(max(in, out)): over sqrt(m) it stays independent of width, which is what muP asks
    for (Yang, Simon and Bernstein, arXiv 2310.17813). AdamW's update has low rank, hence m.
    """
    m = model.width_multiplier
    hidden = m if config.kind == "adamw" else m**0.5
    return {"embedding": 1.0, "head": 1.0, "hidden": 1.0 / hidden, "norm": 1.0}


def _scale_by_group(rates: dict[str, float], learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Updates times minus their group's learning rate."""

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(
            lambda u, group: jnp.negative(learning_rate) * rates[group] * u, updates, parameter_groups(updates)
        )

    return optax.stateless(update)


def _muon(config: OptimizerConfig, adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Orthogonalised momentum for hidden matrices, layer by layer; Adam for all other parameters."""

    def dimensions(params: Any) -> Any:
        # [L, in, out]: axes that are named neither here nor there are a batch of matrices.
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(-2, -1), params)

    muon = optax.chain(
        optax.contrib.scale_by_muon(beta=MUON_MOMENTUM, eps=config.eps, weight_dimension_numbers=dimensions),
        optax.stateless_with_tree_map(lambda u, _: MUON_RMS * max(u.shape[-2:]) ** 0.5 * u),
    )

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda group: "muon" if group == "hidden" else "adam", parameter_groups(params))

    return optax.partition({"muon": muon, "adam": adam}, labels)


def optimizer(config: OptimizerConfig, model: ModelConfig, hyper: Hyper) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon by group.

    Build it inside the compiled step from traced `hyper`: its state does not depend on them, and nothing is
    compiled again when they change.
    """
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return optax.chain(
        optax.clip_by_global_norm(hyper.clip_norm),
        adam if config.kind == "adamw" else _muon(config, adam),
        optax.add_decayed_weights(
            hyper.weight_decay,
            lambda params: jax.tree.map(lambda group: group != "norm", parameter_groups(params)),
        ),
        _scale_by_group(_group_rates(config, model), hyper.learning_rate),
    )


def init_optimizer(config: OptimizerConfig, model: ModelConfig, params: Any) -> optax.OptState:
    """The optimiser's first state for these parameters."""
    return optimizer(config, model, hyper(config, model, 0.0)).init(params)
