"""Intervals by cluster bootstrap: points of one trunk share a seed, so their errors are drawn together."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from scaling.laws import certify, intervals, resampling, solver
from scaling.laws import fit as fitting
from scaling.laws.budget import Cost
from scaling.laws.derivatives import Points
from scaling.laws.form import Columns, Form
from scaling.laws.intervals import Interval

MANY_CLUSTERS = 30  # from here on clusters may be resampled: a replicate without a size becomes improbable
INDICATIVE_BELOW = 8  # clusters; with fewer, no bootstrap's coverage can be trusted
AUDIT_STARTS = 16  # for each replicate that is audited, and for all of them where the audit finds something


Method = Literal["auto"] | resampling.Method


class Audit(NamedTuple):
    """Replicates that were fitted again from many starts.

    Attributes:
        replicates: how many.
        missed: of them, where a start found a lower objective (by more than 1e-8 relative) than the warm start. If
            there are any, all replicates were fitted again from as many starts.
    """

    replicates: int
    missed: int


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Replicates of a fit.

    Attributes:
        fit: the fit that was repeated.
        method: how replicates were made; see `resampling`.
        level: nominal coverage of intervals.
        clusters: G.
        theta: fitting coordinates of each replicate, (R, P).
        params: physical parameters by name, (R,) each.
        audit: how warm starts compared with many starts.
        freedom: degrees of freedom that the clusters leave for their own variance.
        errors: log errors to draw a new run's from.
        words: how the replicates' errors were made.
    """

    fit: fitting.Fit
    method: resampling.Method
    level: float
    clusters: int
    theta: np.ndarray
    params: Mapping[str, np.ndarray]
    audit: Audit
    freedom: int
    errors: np.ndarray
    words: str

    @property
    def indicative(self) -> bool:
        """Whether there are too few clusters for the level to be taken at its word."""
        return self.clusters < INDICATIVE_BELOW

    @property
    def label(self) -> str:
        """What an interval of this bootstrap is called."""
        return f"{self.level:.0%} interval{self.caveat}"

    @property
    def caveat(self) -> str:
        """What has to be said behind the level of any of its intervals, or ""."""
        return f", indicative ({self.clusters} clusters)" if self.indicative else ""

    @property
    def form(self) -> Form:
        """The form."""
        return self.fit.form

    @property
    def estimate(self) -> Mapping[str, float]:
        """Parameters of the fit itself."""
        return self.fit.params

    @property
    def replicates(self) -> Mapping[str, np.ndarray]:
        """Parameters of the replicates, (R,) each."""
        return self.params

    @property
    def identified(self) -> bool:
        """Whether the points determine every parameter."""
        return self.fit.certificate.identified

    @property
    def cost(self) -> Cost:
        """FLOPs per token, as the table's budgets are counted."""
        return self.fit.table.cost

    @property
    def largest_budget(self) -> float:
        """Largest budget among the points."""
        return float(self.fit.table.budgets.max())

    def interval(self, values_R: Any) -> Interval:
        """Interval of a quantity computed from the replicates (replicates on the first axis)."""
        return intervals.expanded_percentiles(values_R, self.level, self.freedom)

    def param_intervals(self) -> dict[str, Interval]:
        """Interval of every parameter."""
        return {name: self.interval(values) for name, values in self.params.items()}

    def predict(self, columns: Columns) -> np.ndarray:
        """Loss under every replicate's law at columns (points,): (R, points)."""
        params = {name: values[:, None] for name, values in self.params.items()}
        return np.asarray(self.fit.form.predict(params, {k: np.atleast_1d(v) for k, v in columns.items()}))

    def prediction_interval(self, columns: Columns, *, seed: int = 0) -> Interval:
        """Interval for the loss of a new run at columns (points,): the law's uncertainty and one point's noise."""
        return self.interval(intervals.with_noise(self.predict(columns), self.errors, seed))


def bootstrap(
    fit: fitting.Fit,
    *,
    replicates: int = 1000,
    level: float = 0.9,
    method: Method = "auto",
    seed: int = 0,
    audit_share: float = 0.05,
) -> Bootstrap:
    """Fits the law again to replicates of its table, each from the optimum found.

    Args:
        fit: the fit.
        replicates: R.
        level: nominal coverage.
        method: of `resampling`. "auto" draws errors by their variance components, and resamples clusters where there
            are 30 or more: resampling a few trunks would lose whole sizes.
        seed: of the draws.
        audit_share: share of replicates that are also fitted from 16 starts, to check the warm start.
    """
    labels, cluster_N = np.unique(fit.table.cluster, return_inverse=True)
    if method == "auto":
        method = "resample" if len(labels) >= MANY_CLUSTERS else "components"
    drawn = resampling.METHODS[method](fit, cluster_N, replicates, np.random.default_rng(seed))
    start_RP = np.broadcast_to(fit.theta, (replicates, len(fit.theta)))
    theta_RP, value_R = solver.solve(fit.form, drawn.data, start_RP, fit.delta)
    audit = Audit(round(audit_share * replicates), 0)
    if audit.replicates:
        _, best_R = _from_many_starts(fit, drawn.data, audit.replicates, seed)
        better_R = best_R < value_R[: len(best_R)] * (1 - certify.SAME_OPTIMUM) - certify.NOTHING
        audit = audit._replace(missed=int(better_R.sum()))
    if audit.missed:
        again_RP, best_R = _from_many_starts(fit, drawn.data, replicates, seed)
        theta_RP = np.where((best_R < value_R)[:, None], again_RP, theta_RP)
    return Bootstrap(
        fit=fit,
        method=method,
        level=level,
        clusters=len(labels),
        theta=theta_RP,
        params=fit.form.physical(theta_RP, fit.table.centre),
        audit=audit,
        freedom=drawn.freedom,
        errors=drawn.errors,
        words=drawn.words,
    )


def _from_many_starts(fit: fitting.Fit, data: Points, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` replicates fitted from many starts each, drawn for the original table: (R, P) and (R,)."""
    original = fitting.as_points(fit.form, fit.table, fit.weights)
    start_SP = solver.draw_starts(fit.form, original, AUDIT_STARTS, seed)
    theta_SP, value_S = solver.solve(
        fit.form,
        data._replace(
            log_loss=np.repeat(data.log_loss[:count], AUDIT_STARTS, 0),
            weight=np.repeat(data.weight[:count], AUDIT_STARTS, 0),
        ),
        np.tile(start_SP, (count, 1)),
        fit.delta,
    )
    best_R = np.nanargmin(value_S.reshape(count, AUDIT_STARTS), 1) + AUDIT_STARTS * np.arange(count)
    return theta_SP[best_R], value_S[best_R]
