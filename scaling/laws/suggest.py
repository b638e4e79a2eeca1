"""The next runs: which sizes and branch points narrow the interval of an answer the most for a budget of FLOPs."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws import allocation
from scaling.laws.budget import SIX_ND, Cost, Market
from scaling.laws.costs import spent
from scaling.laws.design import Noise, Value, design_of, draw_laws, estimate_noise
from scaling.laws.form import Form, Params
from scaling.laws.intervals import Interval
from scaling.laws.planning import Search, Trunk
from scaling.laws.table import Table
from scaling.laws.uncertainty import Bootstrap

DECAY_SHARE = 0.1  # of a branch's tokens: what a further branch of a trunk costs (Haegele et al. 2024, section 4)
LAWS = 8  # over which a design is averaged
SIZE_STEP = 1.5  # between candidate sizes
SIZES_BEYOND, RATIOS_BEYOND = 4.0, 4.0  # candidates reach this far beyond the table's largest N and D/N
RATIOS = 8  # candidate values of D/N
SAME = 1.05  # what lies this near to the table's range lies within it
OPTIONS = {"flops": "--at", "n": "--target-n", "d": "--target-d"}  # of the command line, for errors


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is asked of the law.

    Attributes:
        name: how the command line calls it.
        text: the answer in words.
        unit: of its interval.
        value: (form, params) -> the answer, a float or (R,).
    """

    name: str
    text: str
    unit: str
    value: Value


def exponent(flops: float, cost: Cost = SIX_ND) -> Answer:
    """The exponent a of N_opt ~ C^a over the decade above a budget."""
    return Answer(
        "exponent",
        f"exponent a of N_opt ~ C^a from C = {flops:.2g}",
        "",
        lambda form, params: allocation.local_exponent(Market(form, cost), flops)(params),
    )


def ratio(flops: float, cost: Cost = SIX_ND) -> Answer:
    """The compute-optimal log10 D/N at a budget."""

    def value(form: Form, params: Params) -> Any:
        best = Market(form, cost).optimum(params, flops)
        return np.log10(best["d"] / best["n"])

    return Answer("ratio", f"log10 of the optimal D/N at C = {flops:.2g}", "decades", value)


def loss(n: float, d: float) -> Answer:
    """The loss of a model of N parameters after D tokens."""
    columns = {"n": n, "d": d, "flops": 6 * n * d}
    return Answer(
        "loss", f"loss at N = {n:.3g}, D = {d:.3g}", "loss", lambda form, params: form.predict(params, columns)
    )


def named(
    name: str, *, flops: float | None = None, n: float | None = None, d: float | None = None, cost: Cost = SIX_ND
) -> Answer:
    """An answer by its name: "exponent" or "ratio" at a budget, or "loss" at a size and token count.

    Raises:
        UserError: no such answer, or a number that it needs is absent or makes no sense.
    """
    needed = {"exponent": {"flops": flops}, "ratio": {"flops": flops}, "loss": {"n": n, "d": d}}
    if name not in needed:
        raise UserError(f"answer {name!r}: one of {', '.join(needed)}")
    for what, value in needed[name].items():
        if value is None or not 0 < value < np.inf:
            given = "not given" if value is None else f"{value:g}"
            raise UserError(
                f"answer {name!r} is asked at a {what}, a positive, finite number, here {given}: name it with "
                f"{OPTIONS[what]}"
            )
    if name == "loss":
        return loss(**needed[name])  # type: ignore[arg-type]
    return {"exponent": exponent, "ratio": ratio}[name](flops, cost)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Run:
    """A suggested trunk with its branches, or further branches of a trunk of the table.

    Attributes:
        n: parameters.
        tokens: D of each point, increasing.
        seeds: how many of them to train, each under a seed of its own.
        continues: the table's trunk that these branch from, or "" for a new one.
        flops: what they cost; `share` of the budget.
        spent: with the runs before it.
        half_width: of the interval, expected after it and the runs before it.
        beyond: whether its N or D/N lies outside the table's.
    """

    n: float
    tokens: tuple[float, ...]
    seeds: int
    continues: str
    flops: float
    share: float
    spent: float
    half_width: float
    beyond: bool


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Runs worth making next.

    Attributes:
        answer: what is asked.
        table: the points so far.
        value, interval: the answer today.
        half_width: of the interval today.
        level: of the intervals.
        budget: FLOPs that were offered.
        runs: in the order of what they give for their cost.
        repeat_half_width: expected if the budget went into repeating the table's own runs under new seeds.
        noise: of the runs, as assumed.
        decay_share: of a branch's tokens; 1 where every point is trained from scratch.
        caveats: what has to be known beside the numbers, in sentences.
    """

    answer: Answer
    table: Table
    value: float
    interval: Interval
    half_width: float
    level: float
    budget: float
    runs: tuple[Run, ...]
    repeat_half_width: float
    noise: Noise
    decay_share: float
    caveats: tuple[str, ...]


def suggest(
    replicates: Bootstrap,
    answer: Answer,
    budget: float,
    *,
    decay_share: float = DECAY_SHARE,
    noise: Noise | None = None,
    sizes: Sequence[float] = (),
    ratios: Sequence[float] = (),
    most_runs: int = 16,
) -> Suggestion:
    """Plans runs for a budget by the variance that the answer would have once the law is fitted with them.

    Candidates are new trunks, with one branch point or all up to their last, and further branches of any trunk;
    `planning.Search` says how they are searched.

    Args:
        replicates: the bootstrapped fit of the points so far.
        answer: `exponent`, `ratio`, `loss`, or one of your own.
        budget: FLOPs for new runs, as the table counts them.
        decay_share: of a branch's tokens, all that a further branch of a trunk costs; 1 where every point is a run
            of its own from scratch, as under a cosine.
        noise: of the runs; from the residuals where not given.
        sizes: candidate N; by default 1.5 apart from the table's smallest to 4 times its largest.
        ratios: candidate D/N; by default 8 from the table's smallest to 4 times its largest, with no less than its
            least D.
        most_runs: trunks to suggest at most, counting seeds.

    Raises:
        UserError: the budget buys no candidate or none that helps, the form has columns beside n, d and flops, or a
            number makes no sense.
    """
    if not 0 < decay_share <= 1:
        raise UserError(
            f"decay share {decay_share}: a share of a branch's tokens, above 0 and at most 1 (from scratch)"
        )
    if most_runs < 1:
        raise UserError(f"at most {most_runs} runs: at least 1 has to be allowed")
    if not 0 < budget < np.inf:
        raise UserError(f"budget {budget}: FLOPs must be a positive, finite number")
    fit, known = replicates.fit, replicates.fit.table
    if not set(fit.form.columns) <= {"n", "d", "flops"}:
        raise UserError(f"{fit.form.name!r} reads {', '.join(fit.form.columns)}: runs are suggested by N and D alone")
    noise = noise or estimate_noise(fit)
    laws = draw_laws(replicates, answer.value, noise, LAWS)
    search = Search(
        start=design_of(fit, laws),
        trunks=_trunks(known, decay_share),
        sizes=tuple(sizes) or _sizes(known, budget),
        ratios=tuple(sorted(ratios)) or _ratios(known),
        # The least D/N of a table is often that of its largest models: at small ones it would end within the warm-up.
        least=0.0 if ratios else float(known.columns["d"].min()) / SAME,
        decay_share=decay_share,
        most=most_runs,
        cost=known.cost,
    )
    interval = Interval(*(float(end) for end in replicates.interval(answer.value(fit.form, replicates.params))))
    half_width = (interval.high - interval.low) / 2
    runs = _in_order(search, search.plan(budget), known, budget, half_width)
    if not runs:
        raise UserError(f"budget {budget:.3g} FLOPs: no run that it buys narrows the {answer.text} by 1%; offer more")
    return Suggestion(
        answer=answer,
        table=known,
        value=float(answer.value(fit.form, fit.params)),
        interval=interval,
        half_width=half_width,
        level=replicates.level,
        budget=budget,
        runs=runs,
        repeat_half_width=float(half_width / np.sqrt(1 + budget / spent(known, decay_share))),
        noise=noise,
        decay_share=decay_share,
        caveats=_caveats(replicates, runs, noise),
    )


def _trunks(points: Table, decay_share: float) -> tuple[Trunk, ...]:
    """The table's trunks: clusters of several points at one N."""
    trunks = []
    for label in np.unique(points.cluster):
        n, d = (points.columns[name][points.cluster == label] for name in ("n", "d"))
        if decay_share < 1 and len(d) > 1 and np.ptp(n) == 0:
            stable = points.columns.get("d_stable", (1 - decay_share) * points.columns["d"])
            trained = float(stable[points.cluster == label].max())
            trunks.append(Trunk(str(label), float(n[0]), trained, tuple(float(x) for x in np.sort(d))))
    return tuple(trunks)


def _sizes(points: Table, budget: float) -> tuple[float, ...]:
    """N from the table's smallest to 4 times its largest, as far as the budget reaches at the table's least D/N."""
    n, d = points.columns["n"], points.columns["d"]
    per_product = points.cost.training({"n": n.max()}) / n.max()  # C / (N D) of the largest: 6 for 6 N D
    affordable = np.sqrt(budget / (per_product * np.min(d / n)))
    top = min(SIZES_BEYOND * n.max(), max(affordable, n.min()))
    return tuple(np.geomspace(n.min(), top, 1 + int(np.ceil(np.log(top / n.min()) / np.log(SIZE_STEP)))).tolist())


def _ratios(points: Table) -> tuple[float, ...]:
    """D/N from the table's smallest to 4 times its largest."""
    ratios = points.columns["d"] / points.columns["n"]
    return tuple(np.geomspace(ratios.min(), RATIOS_BEYOND * ratios.max(), RATIOS).tolist())


def _in_order(search: Search, plan: Sequence[Trunk], known: Table, budget: float, half_width: float) -> tuple[Run, ...]:
    """A plan's trunks, seeds of one together, each next one what gives most per FLOP after those before it."""
    alike: dict[tuple[str, float, tuple[float, ...]], list[Trunk]] = {}
    for trunk in plan:
        alike.setdefault((trunk.label if isinstance(trunk.label, str) else "", trunk.n, trunk.tokens), []).append(trunk)
    design, total, runs = search.start, 0.0, []
    today = design.log_variance()
    largest, longest = known.columns["n"].max(), (known.columns["d"] / known.columns["n"]).max()
    while alike:
        designs = {key: functools.reduce(search.grown, trunks, design) for key, trunks in alike.items()}
        values = {key: other.log_variance() for key, other in designs.items()}
        costs = {
            key: sum(trunk.flops(search.decay_share, search.cost) for trunk in trunks) for key, trunks in alike.items()
        }
        now = design.log_variance()
        best = min(alike, key=lambda key: (values[key] - now) / costs[key])
        continues, n, tokens = best
        design, total = designs[best], total + costs[best]
        runs.append(
            Run(
                n=n,
                tokens=tokens,
                seeds=len(alike.pop(best)),
                continues=continues,
                flops=costs[best],
                share=costs[best] / budget,
                spent=total,
                half_width=float(half_width * np.exp((values[best] - today) / 2)),
                beyond=bool(n > SAME * largest or max(tokens) > SAME * n * longest),
            )
        )
    return tuple(runs)


def _caveats(replicates: Bootstrap, runs: Sequence[Run], noise: Noise) -> tuple[str, ...]:
    """What has to be known beside the numbers."""
    found = [
        f"expected widths hold as far as {replicates.form.formula} does: they count noise, and no error of the form"
    ]
    if replicates.indicative:
        found.append(f"{replicates.clusters} clusters: today's interval, and with it every expected one, is indicative")
    if not replicates.identified:
        found.append(
            "the points so far do not identify the law: the plan rests on a guess of it; ask again after a part"
        )
    if noise.trunk == 0:
        found.append("no noise shared by a trunk was seen: where there is some, more branches of a trunk tell less")
    beyond = [str(number) for number, run in enumerate(runs, 1) if run.beyond]
    if beyond:
        which = "run" if len(beyond) == 1 else "runs"
        found.append(f"beyond the N or D/N of the points so far, where the law is untried: {which} {', '.join(beyond)}")
    return tuple(found)
