"""The forms that can be fitted by name. A form of your own is a value like these: see `scaling.laws.form`.

N and D are in ones; where a paper writes constants as scales (N_c) or exponents as ratios, `source` says how ours
are related. Kaplan's and the coupled form are written so that every term is a loss by itself and every exponent the
one seen when the other terms vanish: that is what data determine well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws.form import Columns, Form, Params, Shape, exp, expm1, log, log1p, logaddexp, maximum

__all__ = ["CHINCHILLA", "FORMS", "Columns", "Form", "Params", "Shape", "chinchilla_optimum"]

_Values = Mapping[str, Any]  # shapes by name, or log columns by name


def _chinchilla_basis(s: _Values, x: _Values) -> tuple[Any, ...]:
    return 0.0, -s["alpha"] * x["n"], -s["beta"] * x["d"]


def chinchilla_optimum(params: Params, flops: Any) -> dict[str, Any]:
    """The compute-optimal columns under chinchilla's form where C = 6 N D.

    N = G (C/6)^a, D = (C/6)^(1-a) / G, G = (alpha A / beta B)^(1/(alpha+beta)), a = beta/(alpha+beta)
    (Hoffmann et al. 2022, equation 4).
    """
    alpha, beta = params["alpha"], params["beta"]
    scale = (alpha * params["A"] / (beta * params["B"])) ** (1 / (alpha + beta))
    n = scale * (flops / 6) ** (beta / (alpha + beta))
    return {"n": n, "d": flops / 6 / n}


_UNITS: dict[str, str] = {
    "E": "loss",
    "A": "loss * parameters^alpha",
    "B": "loss * tokens^beta",
    "alpha": "1",
    "beta": "1",
}

CHINCHILLA = Form(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    mathtext="$L = {E} + {A} / N^{{{alpha}}} + {B} / D^{{{beta}}}$",
    columns=("n", "d"),
    coefficients=("E", "A", "B"),
    shapes=(Shape("alpha"), Shape("beta")),
    units=_UNITS,
    source="Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3 equation 2; optimum: equation 4; MiniCPM uses it too",
    log_basis=_chinchilla_basis,
    optimum=chinchilla_optimum,
)


def _together(power: Any, a: Any, b: Any) -> Any:
    """Log of (e^(a/power) + e^(b/power))^power."""
    return power * logaddexp(a / power, b / power)


def _kaplan_combine(s: _Values, x: _Values, terms: Sequence[Any]) -> Any:
    del x
    return _together(s["beta"], *terms)


KAPLAN = Form(
    name="kaplan",
    formula="L = ((A / N^alpha)^(1/beta) + (B / D^beta)^(1/beta))^beta",
    mathtext=r"$L = (({A} / N^{{{alpha}}})^{{1/\beta}} + {B}^{{1/\beta}} / D)^{{\beta}}$, $\beta = {beta}$",
    columns=("n", "d"),
    coefficients=("A", "B"),
    shapes=(Shape("alpha", starts=(0.02, 1.0)), Shape("beta", bounds=(0.02, 4.0), starts=(0.03, 1.0))),
    units={name: _UNITS[name] for name in ("A", "B", "alpha", "beta")},
    source="Kaplan et al. 2020 (arXiv 2001.08361), equation 1.5, with alpha = alpha_N, beta = alpha_D, "
    "N_c = A^(1/alpha) and D_c = B^(1/beta); it has no irreducible loss",
    log_basis=lambda s, x: (-s["alpha"] * x["n"], -s["beta"] * x["d"]),
    combine=_kaplan_combine,
)

COMPUTE = Form(
    name="compute",
    formula="L = E + A / C^alpha",
    mathtext="$L = {E} + {A} / C^{{{alpha}}}$",
    columns=("flops",),
    coefficients=("E", "A"),
    shapes=(Shape("alpha", bounds=(0.005, 4.0), starts=(0.01, 1.0)),),
    units={"E": "loss", "A": "loss * FLOPs^alpha", "alpha": "1"},
    source="Henighan et al. 2020 (arXiv 2010.14701): L(C) along the compute-optimal frontier, with an offset",
    log_basis=lambda s, x: (0.0, -s["alpha"] * x["flops"]),
)


def _effective(log_ratio: Any, r: Any) -> Any:
    """Log of 1 + r (1 - exp(-(ratio - 1) / r)): what `ratio` times as much is worth where nothing more is new.

    `repetition.effective` in logs, which is its specification.
    """
    return log1p(-r * expm1(-expm1(log_ratio) / r))


def _repeated(x: _Values) -> Any:
    """Log of how often the tokens seen are read: D / U_D, 1 at least."""
    return maximum(x["d"] - x["d_unique"], 0.0)


def _data_constrained_basis(s: _Values, x: _Values) -> tuple[Any, ...]:
    epochs = _repeated(x)
    return 0.0, -s["alpha"] * x["n"], -s["beta"] * (x["d"] - epochs + _effective(epochs, s["r_d"]))


def _data_constrained_combine(s: _Values, x: _Values, terms: Sequence[Any]) -> Any:
    """The term of N as if it were that of N'.

    U_N, for which the tokens seen are compute-optimal, is where alpha A / N^alpha = beta B / U_D^beta: it follows
    from the two terms, so it is fitted, replicated and held out with the law.
    """
    offset, of_n, of_d = terms
    once = of_d + s["beta"] * _effective(_repeated(x), s["r_d"])  # B / U_D^beta
    excess = maximum(log(s["beta"] / s["alpha"]) + once - of_n, 0.0) / s["alpha"]  # log of N / U_N, U_N at most N
    of_n = of_n + s["alpha"] * (excess - _effective(excess, s["r_n"]))
    return logaddexp(offset, logaddexp(of_n, of_d))


DATA_CONSTRAINED = Form(
    name="data_constrained",
    formula="L = E + A / N'^alpha + B / D'^beta, X' = U + U r (1 - exp(-(X/U - 1) / r))",
    mathtext="$L = {E} + {A} / N'^{{{alpha}}} + {B} / D'^{{{beta}}}$, $R^*_N = {r_n}$, $R^*_D = {r_d}$",
    columns=("n", "d", "d_unique"),
    coefficients=("E", "A", "B"),
    shapes=(
        Shape("alpha"),
        Shape("beta"),
        Shape("r_n", bounds=(0.05, 500.0), starts=(1.0, 30.0)),
        Shape("r_d", bounds=(0.05, 500.0), starts=(1.0, 30.0)),
    ),
    units=_UNITS | {"r_n": "repetitions", "r_d": "repetitions (epochs beyond the first)"},
    source="Muennighoff et al. 2023 (arXiv 2305.16264), equation 6, with U_D = min(D, d_unique) and U_N = the "
    "size that the same law calls compute-optimal for U_D tokens, at most N; all parameters are fitted together (the "
    "paper fits r_n and r_d last)",
    log_basis=_data_constrained_basis,
    combine=_data_constrained_combine,
)


def _overtraining_basis(s: _Values, x: _Values) -> tuple[Any, ...]:
    m, c = x["d"] - x["n"], np.log(6.0) + x["n"] + x["d"]
    return 0.0, s["eta"] * (m - c), -s["eta"] * (m + c)


OVERTRAINING = Form(
    name="overtraining",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6 N D",
    mathtext=r"$L = {E} + ({a}\, M^{{{eta}}} + {b}\, M^{{-{eta}}})\, C^{{-{eta}}}$",
    columns=("n", "d"),
    coefficients=("E", "a", "b"),
    shapes=(Shape("eta", bounds=(0.005, 2.0), starts=(0.01, 1.0)),),
    units={"E": "loss", "a": "loss * FLOPs^eta", "b": "loss * FLOPs^eta", "eta": "1"},
    source="Gadre et al. 2024 (arXiv 2403.08540), equation 4: chinchilla's form with alpha = beta = 2 eta",
    log_basis=_overtraining_basis,
)


def _precision_basis(s: _Values, x: _Values) -> tuple[Any, ...]:
    kept = sum(log(-expm1(-exp(x[f"p_{part}"]) / s[f"gamma_{part}"])) for part in ("w", "a", "kv"))
    return 0.0, -s["alpha"] * (x["n"] + kept), -s["beta"] * x["d"]


def _precision_ptq_basis(s: _Values, x: _Values) -> tuple[Any, ...]:
    lost = s["gamma_d"] * x["d"] - s["gamma_n"] * x["n"] - exp(x["p_post"]) / s["gamma_post"]
    return *_precision_basis(s, x), lost


_BITS = tuple(Shape(f"gamma_{part}", bounds=(0.05, 20.0), starts=(0.3, 5.0)) for part in ("w", "a", "kv"))

PRECISION = Form(
    name="precision",
    formula="L = E + A / (N f_w f_a f_kv)^alpha + B / D^beta, f_x = 1 - exp(-P_x / gamma_x)",
    mathtext="$L = {E} + {A} / N_\\mathrm{{eff}}^{{{alpha}}} + {B} / D^{{{beta}}}$, "
    "$\\gamma_{{w,a,kv}} = {gamma_w}, {gamma_a}, {gamma_kv}$",
    columns=("n", "d", "p_w", "p_a", "p_kv"),
    coefficients=("E", "A", "B"),
    shapes=(Shape("alpha"), Shape("beta"), *_BITS),
    units=_UNITS | {shape.name: "bits" for shape in _BITS},
    source="Kumar et al. 2024 (arXiv 2411.04330): bits of weights, activations and the KV cache in training",
    log_basis=_precision_basis,
)

PRECISION_PTQ = Form(
    name="precision_ptq",
    formula=f"{PRECISION.formula.split(',')[0]} + C (D^gamma_d / N^gamma_n) exp(-P_post / gamma_post)",
    mathtext="$L = {E} + {A} / N_\\mathrm{{eff}}^{{{alpha}}} + {B} / D^{{{beta}}} + {C}\\, D^{{{gamma_d}}} / "
    "N^{{{gamma_n}}}\\, e^{{-P_\\mathrm{{post}} / {gamma_post}}}$, "
    "$\\gamma_{{w,a,kv}} = {gamma_w}, {gamma_a}, {gamma_kv}$",
    columns=(*PRECISION.columns, "p_post"),
    coefficients=("E", "A", "B", "C"),
    shapes=(
        *PRECISION.shapes,
        Shape("gamma_d"),
        Shape("gamma_n"),
        Shape("gamma_post", bounds=(0.05, 20.0), starts=(0.3, 3.0)),
    ),
    units=dict(PRECISION.units)
    | {"C": "loss * parameters^gamma_n / tokens^gamma_d", "gamma_d": "1", "gamma_n": "1", "gamma_post": "bits"},
    source=f"{PRECISION.source}, and bits of weights after post-training quantisation (1000 where there was none)",
    log_basis=_precision_ptq_basis,
    reference={"p_post": 4.0},  # at the mean of columns that say "none" the term would be nothing
)

COUPLED = Form(
    name="coupled",
    formula="L = E + ((A / N^alpha)^(1/gamma) + (B / D^beta)^(1/gamma))^gamma",
    mathtext=r"$L = {E} + (({A} / N^{{{alpha}}})^{{1/\gamma}} + ({B} / D^{{{beta}}})^{{1/\gamma}})^{{\gamma}}$, "
    r"$\gamma = {gamma}$",
    columns=("n", "d"),
    coefficients=("E", "A", "B"),
    shapes=(Shape("alpha"), Shape("beta"), Shape("gamma", bounds=(0.05, 5.0), starts=(0.3, 2.0))),
    units=_UNITS | {"gamma": "1"},
    source="Beck et al. 2025 (arXiv 2510.02228) and earlier: (A' / N^a + B' / D^b)^gamma with a = alpha / gamma and "
    "A' = A^(1/gamma); gamma = 1 is chinchilla's form, and with E = 0 and gamma = beta it is Kaplan's",
    log_basis=_chinchilla_basis,
    combine=lambda s, x, terms: logaddexp(terms[0], _together(s["gamma"], *terms[1:])),
)

WIDTH_DEPTH = Form(
    name="width_depth",
    formula="L = E + A / width^alpha + G / depth^gamma + B / D^beta",
    mathtext="$L = {E} + {A} / w^{{{alpha}}} + {G} / l^{{{gamma}}} + {B} / D^{{{beta}}}$",
    columns=("width", "depth", "d"),
    coefficients=("E", "A", "G", "B"),
    shapes=(Shape("alpha"), Shape("gamma"), Shape("beta")),
    units={
        "E": "loss",
        "A": "loss * width^alpha",
        "G": "loss * layers^gamma",
        "B": "loss * tokens^beta",
        "alpha": "1",
        "gamma": "1",
        "beta": "1",
    },
    source="McLeish et al. 2025 (Gemstones, arXiv 2502.06857): width and depth as axes of their own",
    log_basis=lambda s, x: (0.0, -s["alpha"] * x["width"], -s["gamma"] * x["depth"], -s["beta"] * x["d"]),
)


def _accuracy_basis(s: _Values, x: _Values) -> tuple[Any, ...]:
    return 0.0, -logaddexp(0.0, s["slope"] * (exp(x["task_loss"]) - s["midpoint"]))


ACCURACY = Form(
    name="accuracy",
    formula="accuracy = chance + gain / (1 + exp(slope (task_loss - midpoint)))",
    mathtext=r"accuracy $= {chance} + {gain} / (1 + e^{{{slope}\,(L - {midpoint})}})$",
    columns=("task_loss",),
    coefficients=("chance", "gain"),
    shapes=(
        Shape("slope", bounds=(0.01, 100.0), starts=(0.5, 15.0)),
        Shape("midpoint", bounds=(0.0, 20.0), starts=(0.1, 5.0)),
    ),
    units={"chance": "accuracy", "gain": "accuracy", "slope": "1 / loss", "midpoint": "loss"},
    source="ModelTunnel v2 (MiniCPM4, arXiv 2506.07900, section 2.3.1): accuracy of a task from the loss on its "
    "reference answers; the loss column holds accuracies",
    log_basis=_accuracy_basis,
)

FORMS = {
    form.name: form
    for form in (
        CHINCHILLA,
        KAPLAN,
        COMPUTE,
        DATA_CONSTRAINED,
        OVERTRAINING,
        PRECISION,
        PRECISION_PTQ,
        COUPLED,
        WIDTH_DEPTH,
        ACCURACY,
    )
}
