"""Standard parametrisation beside muP: how the same model would scale with width if muP's rules were left out."""

import dataclasses
import math

from models.config import ModelConfig


def standard(model: ModelConfig) -> ModelConfig:
    """The model in standard parametrisation; at its muP base width it is the model itself.

    Which standard: initial matrices have variance 1 / fan_in (Glorot and Bengio 2010; LeCun et al. 1998), one learning
    rate serves all parameters, logits are the plain product of features and table, and an embedding table that is also
    the head has entries of size 1 / sqrt(D) and its output is multiplied by sqrt(D) (Vaswani et al. 2017, section 3.4).
    Everything is scaled so that the two parametrisations agree at `mup_base_width`, where the learning rate was
    searched; so what they differ by elsewhere is a rule of width, not a constant. With m = D / base:

    ==============================  ==============================  ==================================
    quantity                        muP (`models.transformer`)      standard
    ==============================  ==============================  ==================================
    hidden matrices' initial std    init_std / sqrt(m)              init_std / sqrt(m)
    their learning rate             base / m                        base
    table's initial std             init_std                        init_std / sqrt(m)
    embedding output                scale_emb * table               scale_emb * sqrt(m) * table
    logits                          features . table / m            features . table
    ==============================  ==============================  ==================================

    One consequence of the tied table: Adam's steps on it do not shrink as its entries do, so the embedding's output
    moves sqrt(m) times as far per step; where input and output tables are two, only the head has this. The multiplier
    of block outputs, `scale_depth`, has nothing to do with width and stays.

    Args:
        model: a muP model; its `mup_base_width` says at which width the two agree.
    """
    root_m = math.sqrt(model.width_multiplier)
    return dataclasses.replace(
        model,
        mup_base_width=model.d_model,  # m = 1: one rate for all, logits undivided
        init_std=model.init_std / root_m,
        scale_emb=model.scale_emb * root_m,
    )
