"""The certificate of a fit: evidence that the optimum was reached, and in words what the data leave open."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from scaling.laws.form import Form

SAME_OPTIMUM = 1e-8  # relative objective within which two starts have reached the same optimum
OTHER_BASIN = 1e-5  # relative objective beyond which a stationary point is another basin
UNIDENTIFIED = 1e12  # condition of the equilibrated J^T J from which a direction is beyond double precision
NOTHING = 1e-15  # objective of points that the law goes through exactly; ratios below it are rounding
WEAK = 0.5  # standard error relative to the value from which a parameter is called weakly determined


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Evidence on an optimum, in fitting coordinates (`Form.coordinates`).

    Attributes:
        gradient_norm: largest absolute component of the objective's gradient, box constraints left out.
        fall: by how much one more step would lower the objective: Newton's, or one down a negative curvature.
        hessian_eigenvalues: of the objective's Hessian scaled to unit diagonal, ascending.
        hessian_condition: largest over smallest of them; infinite where not positive definite.
        design_condition: the same of J^T J, J the Jacobian of log predictions: what the points can tell at all,
            whatever the loss function.
        starts: starts tried.
        share_at_optimum: of starts, that ended within 1e-8 (relative) of the best objective.
        at_bounds: parameters held by their box.
        second_basin: (objective, share of starts) of the next best stationary point, or None.
        standard_errors: rough ones by parameter (for a coefficient: of its log), from J^T J and the residuals'
            mean square. The bootstrap's intervals are the ones to quote.
        findings: what a person should know, in sentences; empty when all is well.
    """

    gradient_norm: float
    fall: float
    hessian_eigenvalues: tuple[float, ...]
    hessian_condition: float
    design_condition: float
    starts: int
    share_at_optimum: float
    at_bounds: tuple[str, ...]
    second_basin: tuple[float, float] | None
    standard_errors: Mapping[str, float]
    findings: tuple[str, ...]

    @property
    def identified(self) -> bool:
        """Whether every parameter is determined by the data: no free direction, none at a bound."""
        return self.design_condition < UNIDENTIFIED and not self.at_bounds


def certify(
    form: Form,
    centre: Mapping[str, float],
    theta_SP: np.ndarray,
    value_S: np.ndarray,
    evidence: Mapping[str, np.ndarray],
    box: tuple[np.ndarray, np.ndarray],
) -> Certificate:
    """Builds the certificate from all starts' ends and the derivatives at the best of them.

    Args:
        form: the form.
        centre: the table's centre.
        theta_SP: where each start ended, (S, P).
        value_S: its objective, (S,).
        evidence: residuals (N,) and jacobian (N, P), each row times the root of its weight, gradient (P,) and hessian
            (P, P) at the best.
        box: bounds of the coordinates.
    """
    best = int(np.nanargmin(value_S))
    theta_P, low_P, high_P = theta_SP[best], *box
    held_P = (theta_P <= low_P + 1e-9) | (theta_P >= high_P - 1e-9)
    free_P = ~held_P
    gradient_P, hessian_PP = evidence["gradient"][free_P], evidence["hessian"][np.ix_(free_P, free_P)]
    hessian_P, axes_PP = _equilibrated(hessian_PP)
    jacobian_NP = evidence["jacobian"]
    design_P, directions_PP = _equilibrated(jacobian_NP.T @ jacobian_NP)
    names = np.array(form.free)
    relative_S = (value_S - value_S[best]) / max(value_S[best], NOTHING)
    certificate = Certificate(
        gradient_norm=float(np.max(np.abs(gradient_P), initial=0.0)),
        fall=_fall(hessian_PP, gradient_P),
        hessian_eigenvalues=tuple(float(v) for v in hessian_P),
        hessian_condition=_condition(hessian_P),
        design_condition=_condition(design_P),
        starts=len(value_S),
        share_at_optimum=float(np.mean(relative_S < SAME_OPTIMUM)),
        at_bounds=tuple(str(name) for name in names[held_P]),
        second_basin=_second_basin(relative_S, value_S),
        standard_errors=_standard_errors(form, centre, theta_P, jacobian_NP, evidence["residuals"]),
        findings=(),
    )
    params = {name: float(value) for name, value in form.physical(theta_P, centre).items()}
    confounded = [str(name) for name in names[np.abs(directions_PP[:, 0]) > 0.3]]
    lowest = [str(name) for name in names[free_P][np.abs(axes_PP[:, :1]).max(1, initial=0.0) > 0.3]]
    too_far = certificate.fall > SAME_OPTIMUM * max(value_S[best], NOTHING)
    findings = [
        *_findings(form, params, certificate, confounded, tuple(names[theta_P >= high_P - 1e-9])),
        *(_unfinished(certificate, lowest) if too_far else []),
        *_thin(certificate, spare=len(jacobian_NP) - len(theta_P)),
    ]
    return dataclasses.replace(certificate, findings=tuple(findings))


def _equilibrated(matrix_PP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix scaled to unit diagonal."""
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(matrix_PP)), 1e-300))
    values, vectors = np.linalg.eigh(matrix_PP * scale[:, None] * scale[None, :])
    return values, vectors


def _condition(eigenvalues_P: np.ndarray) -> float:
    if not len(eigenvalues_P):  # every coordinate is at a bound
        return float("inf")
    smallest, largest = eigenvalues_P[0], eigenvalues_P[-1]
    return float(largest / smallest) if smallest > 0 else float("inf")


def _second_basin(relative_S: np.ndarray, value_S: np.ndarray) -> tuple[float, float] | None:
    """The best objective outside the optimum's basin where at least two starts agree, and their share.

    One start alone is one that got stuck, not a basin.
    """
    others = np.sort(value_S[relative_S > OTHER_BASIN])
    for value in others:
        agreeing = np.abs(others / value - 1) < SAME_OPTIMUM
        if agreeing.sum() >= 2:
            return float(value), float(agreeing.sum() / len(value_S))
    return None


def _standard_errors(
    form: Form,
    centre: Mapping[str, float],
    theta_P: np.ndarray,
    jacobian_NP: np.ndarray,
    residuals_N: np.ndarray,
) -> dict[str, float]:
    """s^2 (J^T J)^-1 carried from fitting coordinates to log coefficients and shapes."""
    freedom = max(len(residuals_N) - len(theta_P), 1)
    covariance = np.linalg.pinv(jacobian_NP.T @ jacobian_NP, hermitian=True) * (residuals_N @ residuals_N) / freedom

    def readable(theta: np.ndarray) -> np.ndarray:
        params = form.physical(theta, centre)
        return np.array([np.log(params[k]) if k in form.coefficients else params[k] for k in form.free])

    step = 1e-6 * np.eye(len(theta_P))
    change_PP = np.stack([(readable(theta_P + s) - readable(theta_P - s)) / 2e-6 for s in step], -1)
    errors = np.sqrt(np.diag(change_PP @ covariance @ change_PP.T))
    return dict(zip(form.free, errors.tolist(), strict=True))


def _fall(hessian_PP: np.ndarray, gradient_P: np.ndarray) -> float:
    """By how much a step lowers the objective: Newton's, or one of length 1 along what bends down most."""
    if not len(gradient_P):
        return 0.0
    values_P, axes_PP = _equilibrated(hessian_PP)
    scaled_PP = axes_PP / np.sqrt(np.maximum(np.abs(np.diag(hessian_PP)), 1e-300))[:, None]
    if values_P[0] <= 0:
        down_P = scaled_PP[:, 0] / np.abs(scaled_PP[:, 0]).max()
        return float(abs(down_P @ gradient_P) - 0.5 * down_P @ hessian_PP @ down_P)
    return float(0.5 * np.sum((scaled_PP.T @ gradient_P) ** 2 / values_P))


def _findings(
    form: Form,
    params: Mapping[str, float],
    certificate: Certificate,
    confounded: list[str],
    at_upper: tuple[str, ...],
) -> list[str]:
    """What the points do not determine, in words.

    Args:
        form: the form.
        params: physical parameters.
        certificate: without findings.
        confounded: parameters that make up the least determined direction.
        at_upper: parameters held by the upper end of their box.
    """
    found = []
    for name in certificate.at_bounds:
        if name in form.coefficients and name not in at_upper:
            found.append(f"{name} ran to the edge of its range: the data show no sign of its term")
        else:
            found.append(f"{name} ran to the edge of its range ({params[name]:.3g}): the data do not determine it")
    errors = certificate.standard_errors
    if certificate.design_condition >= UNIDENTIFIED:
        found.append(
            f"the data cannot tell {', '.join(confounded)} apart: some combination of them leaves every prediction "
            "unchanged"
        )
        return found
    if errors.get("E", 0.0) > WEAK:
        found.append(f"E is weakly determined ({params['E']:.2g}, its log +- {errors['E']:.2g})")
    for name in (name for name in form.free if name not in form.coefficients):
        if errors[name] > WEAK * abs(params[name]):
            found.append(f"{name} is weakly determined ({params[name]:.2g} +- {errors[name]:.2g})")
    return found


def _unfinished(certificate: Certificate, lowest: list[str]) -> list[str]:
    """Why the point is no minimum, in words; nothing where the points leave a direction open, which has been said.

    Args:
        certificate: without findings.
        lowest: parameters that make up the direction in which the objective bends up least.
    """
    if certificate.design_condition >= UNIDENTIFIED:
        return []
    if certificate.hessian_eigenvalues[0] <= 0:
        return [f"not a minimum: the objective still falls along {', '.join(lowest)}; fit again with more starts"]
    return ["the descent stopped before the minimum: fit again with more starts"]


def _thin(certificate: Certificate, spare: int) -> list[str]:
    """Where points or starts are few, in words; `spare` is the number of points beyond that of parameters."""
    found = []
    if spare < 3:
        found.append(f"only {spare} points more than parameters: residuals say little about errors, and intervals less")
    if certificate.starts == 1:
        found.append("a single start: no other was there to look for a lower optimum; fit again with 64")
    elif certificate.share_at_optimum < 0.1:
        found.append(
            f"only {certificate.share_at_optimum:.0%} of the starts reached the optimum: fit again with more starts"
        )
    return found
