r"""Whether a posterior can be trusted, from its InferenceData alone.

The limits, and why:

- **k-hat** of a row is the shape of the tail of its importance weights. Above
  min(1 - 1/log10(S), 0.7) with S draws the weighted estimates have not settled (Vehtari et al.
  2024, arXiv 1507.02646). Its standard error is about (1 + k) / sqrt(3 sqrt(S)), 0.2 at
  S = 200, so that one row in ten of a good guide (k = 0.3) passes the threshold by chance:
  a fifth of the rows (:data:`KHAT_SHARE`) is twice that. k-hat sees a guide that is too narrow;
  one that is a little too wide hides from it.
- **Gap** between iw_bound and elbo of a row, an estimate of KL(q || p). For log weights that are
  Normal the effective share of the draws is exp(-2 gap): above log(S) / 2 nats less than one
  draw in S counts, and the guide's draws stand for nothing but the guide.
- **Slope** of the training loss over the last fifth of the last stage, at least 10 points:
  training was too short if the loss falls by more than 3 standard errors and by more than
  1 % (:data:`SLOPE_SHARE`) of all that the stage gained.
- **R-hat** above 1.05 or fewer than 100 effective draws per chain, for MCMC. Vehtari et al. 2021
  (arXiv 1903.08008) ask for 1.01 of one quantity; the largest of 600 quantities of two chains of
  independent draws reaches 1.03 at 200 draws and 1.013 at 500.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np

Array = np.ndarray[Any, Any]

KHAT_SHARE = 0.2
SLOPE_SHARE = 0.01
RHAT, ESS_PER_CHAIN = 1.05, 100
LEAST_DRAWS = 25  # the tail of fewer draws has under 5 of them, and ArviZ fits none
CONSTANT = 1e-6  # nats; log weights that differ by less are equal


def khat(log_weights: Array) -> Array:
    """Pareto shape of the importance weights of each row (PSIS).

    Args:
        log_weights: ``(draw, datum)``, nats.

    Returns:
        ``(datum,)``: -inf where the weights, or the largest of them, are all equal (an exact
        guide, or weights at their bound), +inf where one is not finite, NaN for fewer than 25
        draws, which cannot tell.
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    draws, rows = weights.shape
    if draws < LEAST_DRAWS:
        return np.full(rows, np.nan)
    tail = int(np.ceil(min(draws / 5, 3 * math.sqrt(draws)))) + 1
    # A draw of weight zero (-inf) is no failure; NaN, +inf and nothing but zeros are.
    finite = np.isfinite(weights.max(0)) & ~np.isnan(weights).any(0)
    largest = np.partition(weights, draws - tail, axis=0)[draws - tail :]
    with np.errstate(invalid="ignore"):
        constant = finite & (largest.max(0) - largest.min(0) < CONSTANT)
    shapes = np.full(rows, np.inf)
    shapes[constant] = -np.inf
    fit = finite & ~constant
    if fit.any():
        shapes[fit] = az.psislw(weights[:, fit].T)[1]
    return shapes


def khat_threshold(draws: int) -> float:
    """Largest k-hat at which weighted estimates from so many draws are reliable."""
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 10 else 0.0


def importance_ess(log_weights: Array) -> Array:
    """Effective number of draws of each row, 1 / sum of squared normalised weights.

    Args:
        log_weights: ``(draw, datum)``, nats.

    Returns:
        ``(datum,)``, from 1 to the number of draws; NaN where a weight is not finite.
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        scaled = np.exp(weights - weights.max(0))
        ess: Array = scaled.sum(0) ** 2 / (scaled**2).sum(0)
    return ess


def per_row(log_weights: Array, khat_rows: int) -> dict[str, Array]:
    """The diagnostics of each row.

    Args:
        log_weights: ``(draw, datum)``, nats.
        khat_rows: Most rows whose k-hat is computed, evenly spread; NaN for the others.

    Returns:
        ``khat``, ``ess_is``, ``elbo`` (mean log weight) and ``iw_bound`` (log mean weight), each
        ``(datum,)``.
    """
    draws, rows = log_weights.shape
    weights = np.asarray(log_weights, dtype=np.float64)
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, khat_rows)).round().astype(int))
    shapes = np.full(rows, np.nan)
    shapes[chosen] = khat(weights[:, chosen])
    with np.errstate(invalid="ignore"):
        bound = np.logaddexp.reduce(weights, 0) - math.log(draws)
    return {
        "khat": shapes,
        "ess_is": importance_ess(weights),
        "elbo": weights.mean(0),
        "iw_bound": bound,
    }


@dataclass(frozen=True)
class Verdict:
    """What the diagnostics say.

    Attributes:
        ok: No check failed.
        findings: A line for each check, with its numbers, and what to try where it failed.
    """

    ok: bool
    findings: list[str]


def verdict(idata: az.InferenceData) -> Verdict:
    """Check a posterior from what its InferenceData holds.

    Args:
        idata: From ``export.posterior``, ``mcmc.nuts``, or a file of theirs.

    Raises:
        ValueError: If it holds nothing to check.
    """
    checks = [_finite(idata)]
    if "diagnostics" in idata.groups():
        draws = int(idata.sample_stats.sizes["draw"])
        values = {name: value.values for name, value in idata.diagnostics.items()}
        checks += [_tails(values["khat"], draws), _gap(values, draws)]
    if "training" in idata.groups() and "loss" in idata.training:
        checks += _slope(idata)
    if idata.attrs.get("inference_method") == "nuts":
        checks += _chains(idata)
    if len(checks) == 1:
        raise ValueError(
            f"nothing to check in groups {idata.groups()}, expected 'diagnostics', 'training' "
            "or a posterior by NUTS"
        )
    return Verdict(all(ok for ok, _ in checks), [line for _, line in checks])


def _finite(idata: az.InferenceData) -> tuple[bool, str]:
    bad = []
    for group in ("posterior", "sample_stats", "log_likelihood", "training"):
        if group not in idata.groups():
            continue
        for name, values in idata[group].data_vars.items():
            count = int((~np.isfinite(values.values)).sum())
            if count:
                bad.append(f"{count} of {values.size} in {group}/{name}")
    if not bad:
        return True, "all values are finite"
    return False, (
        f"values that are not finite: {', '.join(bad)}; look for data outside the likelihood's "
        "support, or train with a smaller learning rate"
    )


def _tails(shapes: Array, draws: int) -> tuple[bool, str]:
    known = shapes[~np.isnan(shapes)]
    if not len(known):
        return False, f"k-hat needs at least {LEAST_DRAWS} draws, got {draws}; export 200"
    limit = khat_threshold(draws)
    share = float((known > limit).mean())
    exact = int(np.isneginf(known).sum())
    line = f"k-hat is above {limit:.2f} in {share:.1%} of {len(known)} rows"
    line += f" ({exact} have constant weights)" if exact else ""
    if share <= KHAT_SHARE:
        return True, line
    return False, (
        f"{line}, expected at most {KHAT_SHARE:.0%}; the guide is too narrow or far too wide: "
        "train longer or with IWELBO, or give the guide a richer family"
    )


def _gap(values: dict[str, Array], draws: int) -> tuple[bool, str]:
    gap, limit = float(np.median(values["iw_bound"] - values["elbo"])), 0.5 * math.log(draws)
    line = (
        f"iw_bound - elbo is {gap:.3g} nats in the median row, of which {limit:.2f} are too many"
    )
    if gap <= limit:
        return True, line
    return False, (
        f"{line}; the guide is far from the posterior: train longer, give the guide larger "
        "networks, or compare with inference.nuts on a few rows"
    )


def _slope(idata: az.InferenceData) -> list[tuple[bool, str]]:
    loss = idata.training["loss"].values[0]
    if "stage" in idata.training:
        stage = idata.training["stage"].values[0]
        loss = loss[stage == stage[-1]]
    loss = loss[np.isfinite(loss)]
    count = max(10, math.ceil(len(loss) / 5))
    if len(loss) < 2 * count:
        return [(True, f"the training curve has {len(loss)} points, too few to tell its slope")]
    last = loss[-count:]
    step = np.arange(count) - (count - 1) / 2
    slope = float(step @ last / (step @ step))
    residual = last - last.mean() - slope * step
    error = math.sqrt(float(residual @ residual) / (count - 2) / float(step @ step)) * count
    change = slope * count
    gained = float(loss[:count].mean() - last.mean())
    line = (
        f"over the last {count} points the training loss changed by {change:.3g} +- {error:.2g}, "
        f"over the stage by {-gained:.3g}"
    )
    if abs(change) <= max(3 * error, SLOPE_SHARE * abs(gained)):
        return [(True, line)]
    advice = "train longer" if change < 0 else "it rises: use a smaller learning rate"
    return [(False, f"{line}; {advice}")]


def _chains(idata: az.InferenceData) -> list[tuple[bool, str]]:
    continuous = [n for n, v in idata.posterior.data_vars.items() if v.dtype.kind == "f"]
    chains = int(idata.posterior.sizes["chain"])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # values that never move have no R-hat
        rhat = az.rhat(idata, var_names=continuous).to_array().max().item()
        ess = az.ess(idata, var_names=continuous).to_array().min().item()
    diverging = int(idata.sample_stats["diverging"].sum())
    good = (chains == 1 or rhat <= RHAT) and ess >= ESS_PER_CHAIN * chains
    line = f"largest R-hat {rhat:.3f} over {chains} chains, least effective draws {ess:.0f}"
    advice = (
        ""
        if good
        else (
            f", expected R-hat up to {RHAT} and {ESS_PER_CHAIN} per chain; more draws and warmup"
        )
    )
    apart = f"{diverging} divergent transitions"
    more = "" if not diverging else "; more warmup, or fewer rows at a time"
    return [(good, line + advice), (diverging == 0, apart + more)]
