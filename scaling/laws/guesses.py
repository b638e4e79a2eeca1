"""Which column of a stranger's table is which: the names that trainers and spreadsheets write, the preferred first."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scaling.errors import UserError

MEANINGS: Mapping[str, str] = {
    "n": "the parameter count N",
    "d": "the training tokens D",
    "flops": "the training FLOPs C",
    "loss": "the loss",
    "cluster": "the trunk (or seed) of a point",
    "d_unique": "the unique tokens",
    "d_stable": "the tokens up to where a branch leaves its trunk",
    "width": "the model's width",
    "depth": "the number of layers",
    "p_w": "the bits of a weight in training",
    "p_a": "the bits of an activation in training",
    "p_kv": "the bits of the key-value cache in training",
    "p_post": "the bits of a weight after training",
    "task_loss": "the loss on the task",
    "accuracy": "the accuracy on the task",
}

_HELD_OUT = r"(?:eval|val|valid|validation|test|held_?out)"
_LOSS = r"(?:(?:lm|ce|cross_entropy|nll|token)_)?(?:loss|cross_entropy|nll|ce)"
_TRAINED = r"(?:train|training|consumed|seen|processed|throughput|total|n|train_n)"

# Patterns of canonical names (see `canonical`), most preferred first; each has to match a whole name.
# N without embeddings comes before N with them, a held-out loss before one that may be the training loss.
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "n": (
        r"n",
        r"n_non_emb(?:edding)?|(?:n_)?non_?emb(?:edding)?s?_params|(?:n_)?params_(?:non|no|wo|without|ex|excl)_?emb\w*",
        r"(?:n_)?active_(?:non_emb\w*_)?params|params_active(?:_precise)?|n_active",
        r"(?:n_|model_|model_n_|trainable_|n_trainable_)?params?(?:_count)?",
        r"(?:model_)?size|model_n",
        r"n_total|(?:n_)?total_params|params_total(?:_precise)?|n_(?:with|incl)_emb\w*|params_(?:with|incl)\w*_emb\w*",
    ),
    "d": (
        r"d|d_total",
        rf"(?:{_TRAINED}_)*tokens(?:_(?:seen|trained|consumed|processed|total|count))?",
        r"dataset_tokens|data_tokens|d_tokens|tokens_d",
    ),
    "flops": (
        r"c|c_6nd",
        r"(?:n_|total_|train_|training_|model_|compute_)*flops?(?:_total)?|flops?_(?:train|training)|compute(?:_budget)?",
        r"(?:throughput_)?total_(?:mega|giga|tera|peta|exa|zetta|[mgtpez])_?flops?",
        r"(?:compute_)?(?:pf|petaflops?(?:_s)?)_?days?",
        r"c_6nd_total|c_counted",
    ),
    "loss": (
        rf"(?:final_)?{_HELD_OUT}_(?:set_)?{_LOSS}(?:_final)?|lm_loss_validation(?:_lm_loss_validation)?",
        rf"final_{_LOSS}|{_LOSS}_final",
        r"nats_per_token(?:_.+)?",
        rf"l|smooth_loss|{_LOSS}",
    ),
    "cluster": (
        r"cluster(?:_id)?",
        r"trunk(?:_id|_name)?",
        r"run|run_name|run_id|name|experiment(?:_name|_id)?|exp_name",
    ),
    "d_unique": (r"d_unique|(?:n_|train_)*unique_(?:train_)?tokens|tokens_unique",),
    "d_stable": (r"d_stable|(?:n_)?stable_tokens|tokens_stable",),
    "width": (r"width|d_model|hidden_(?:size|dim)|n_embd|embed(?:ding)?_dim|model_dim|dim",),
    "depth": (r"depth|(?:n_)?(?:hidden_)?layers?|n_blocks",),
    "p_w": (r"p_w|w(?:eight)?s?_?bits|weight_precision|bits_w(?:eights?)?",),
    "p_a": (r"p_a|a(?:ct|ctivation)?s?_?bits|activation_precision|bits_a(?:ct|ctivations?)?",),
    "p_kv": (r"p_kv|kv_?(?:cache_)?bits|kv_(?:cache_)?precision|bits_kv",),
    "p_post": (r"p_post|(?:post|ptq|post_training)_?bits|(?:post|ptq)_precision|bits_post",),
    "task_loss": (r"task_loss|(?:task_)?(?:bpb|bits_per_byte)(?:_.+)?", rf"(?:final_)?{_HELD_OUT}_{_LOSS}", _LOSS),
    "accuracy": (r"(?:task_)?acc(?:uracy)?", r".+_acc(?:uracy)?(?:_norm|_per_char|_raw)?|primary_metric|primary_score"),
}
_TRAINING_LOSS = rf"(?:final_|smooth_)?train(?:ing)?_{_LOSS}(?:_final|_smooth)?"
_LOSS_LIKE = r"(?:^|_)(?:loss|losses|cross_entropy|ce|nll|nats_per_\w+|bits_per_\w+|bpb|bpc)(?:_|$)"
_NO_LOSS = r"(?:^|_)(?:aux|auxiliary|balance|balancing|router|z|task|scale|min|max|std|step|steps)(?:_|$)"

_NAMED_UNITS = (
    (r"_(?:k|thousands?)$", 1e3),
    (r"_(?:m|mn|mil|millions?)$|^millions?_(?:of_)?", 1e6),
    (r"_(?:b|bn|bil|billions?)$|^billions?_(?:of_)?", 1e9),
    (r"_(?:t|tn|trillions?)$|^trillions?_(?:of_)?", 1e12),
)
_FLOP_UNITS = (
    (r"(?:^|_)(?:pf|petaflops?(?:_s)?)_?days?$", 8.64e19),
    (r"(?:^|_)(?:mega_?|m)flops?$", 1e6),
    (r"(?:^|_)(?:giga_?|g)flops?$", 1e9),
    (r"(?:^|_)(?:tera_?|t)flops?$", 1e12),
    (r"(?:^|_)(?:peta_?|p)flops?$", 1e15),
    (r"(?:^|_)(?:exa_?|e)flops?$", 1e18),
    (r"(?:^|_)(?:zetta_?|z)flops?$", 1e21),
)


class Guess(NamedTuple):
    """A column that a name gives away.

    Attributes:
        column: its name in the table.
        others: columns that could be meant as well, less preferred.
    """

    column: str
    others: tuple[str, ...]


def option(role: str) -> str:
    """How the command line takes the column of a role."""
    role = "loss" if role == "accuracy" else role
    return f"--{role}" if role in ("n", "d", "flops", "loss", "cluster") else f"--column {role}=NAME"


def canonical(name: str) -> str:
    """A column's name with case, punctuation, camel case and common synonyms out of the way: n_params, val_loss."""
    text = re.sub(r"([a-z])([A-Z])", r"\1_\2", str(name))
    text = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    text = re.sub(r"^(?:config|summary|summary_metrics)_(?=.)", "", text)
    text = re.sub(r"parameter", "param", text)
    return re.sub(r"(?:^|(?<=_))(?:num|nb|number_of|no_of|nr_of)_", "n_", text)


def named_unit(role: str, name: str) -> float:
    """What a column's name says its values count in: 1e9 for "Tokens (B)", 8.64e19 for "PF-days", else 1."""
    for pattern, factor in {"n": _NAMED_UNITS, "d": _NAMED_UNITS, "flops": _FLOP_UNITS}.get(role, ()):
        if re.search(pattern, canonical(name)):
            return factor
    return 1.0


def preferred(names: Iterable[str], role: str) -> list[str]:
    """The columns that the names of a table suggest most for a role; several where none is preferred."""
    return next(iter(_tiers(list(names), role)), [])


def guess(names: Iterable[str], role: str) -> Guess | None:
    """The column that the names of a table suggest for a role, or None.

    Raises:
        UserError: several columns, none of which is preferred.
    """
    tiers = _tiers(list(names), role)
    if not tiers:
        return None
    if len(tiers[0]) > 1:
        raise UserError(
            f"columns {listed(tiers[0])} could all be {MEANINGS.get(role, role)}: choose with {option(role)}"
        )
    others = dict.fromkeys(name for tier in tiers[1:] for name in tier if name != tiers[0][0])
    return Guess(tiers[0][0], tuple(others))


def candidates(names: Iterable[str], role: str) -> list[str]:
    """All columns whose names suggest a role, most preferred first."""
    return list(dict.fromkeys(name for tier in _tiers(list(names), role) for name in tier))


def losses(names: Iterable[str]) -> list[str]:
    """The columns whose names look like losses."""
    return [n for n in names if re.search(_LOSS_LIKE, canonical(n)) and not re.search(_NO_LOSS, canonical(n))]


def is_training_loss(name: str) -> bool:
    """Whether a column's name says that its loss was measured on the training batches."""
    return bool(re.fullmatch(_TRAINING_LOSS, canonical(name)))


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for an error message."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _tiers(names: Sequence[str], role: str) -> list[list[str]]:
    """Columns that a role's patterns match, pattern by pattern, without empty ones."""
    tiers = [_matching(names, pattern, role) for pattern in PATTERNS.get(role, (re.escape(role),))]
    if role == "loss":  # a name nobody thought of, as long as there is one only; training losses come last
        tiers += [[name for name in losses(names) if not is_training_loss(name)]]
        tiers += [[name for name in names if is_training_loss(name)]]
    return [tier for tier in tiers if tier]


def _matching(names: Sequence[str], pattern: str, role: str) -> list[str]:
    """Columns whose canonical name matches, with or without a unit in it."""
    return [name for name in names if any(re.fullmatch(pattern, form) for form in _forms(name, role))]


def _forms(name: str, role: str) -> set[str]:
    forms = {canonical(name)}
    if role in ("n", "d"):
        forms |= {re.sub(pattern, "", canonical(name)) for pattern, _ in _NAMED_UNITS}
    return forms
