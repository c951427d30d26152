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
- **Units in use**: the variance over rows of a code's mean, as a share of all its variance,
  corrected for the noise of the mean (Burda et al. 2016, arXiv 1509.00519, with the aggregate
  posterior in place of the prior). Below 1 % (:data:`ACTIVE`) a number says nothing of its row.
  That is no fault of the posterior, which then is the prior: it is said and does not count.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import xarray as xr

from ppl_models.inference.posterior.groups import groups_of
from ppl_models.inference.posterior.importance_weights import (
    EVEN,
    importance_ess,
    khat_threshold,
    per_row,
)
from ppl_models.inference.posterior.netcdf_read import OURS
from ppl_models.inference.posterior.pareto import LEAST_DRAWS, khat

__all__ = [
    "LEAST_DRAWS",
    "Verdict",
    "importance_ess",
    "khat",
    "khat_threshold",
    "per_row",
    "verdict",
]

Array = np.ndarray[Any, Any]
Datasets = Mapping[str, xr.Dataset]

PART_CELLS = 1 << 22  # numbers read from a file at a time
KHAT_SHARE = 0.2
ACTIVE = 0.01
ACTIVE_ROWS = 20, 1000  # least and most rows from which units in use are counted
SLOPE_SHARE = 0.01
CURVE = {"chain", "step"}
RHAT, ESS_PER_CHAIN = 1.05, 100


@dataclass(frozen=True)
class Verdict:
    """What the diagnostics say.

    Attributes:
        ok: No check failed.
        findings: A line for each check, with its numbers, and what to try where it failed.
        passed: Whether each of them passed, in the same order.
    """

    ok: bool
    findings: list[str]
    passed: list[bool]


def verdict(idata: az.InferenceData | xr.DataTree) -> Verdict:
    """Check a posterior from what its InferenceData holds.

    Args:
        idata: From ``export.posterior``, ``mcmc.nuts``, or a file of theirs.

    Raises:
        ValueError: If it holds nothing to check.
    """
    groups = groups_of(idata)
    ours = str(idata.attrs.get("creation_library")) == OURS
    checks = [_finite(groups, ours)]
    if {"khat", "ess_is", "iw_bound", "elbo"} <= set(groups.get("diagnostics", {})):
        draws = int(groups["sample_stats"].sizes["draw"])
        values = {str(name): value.values for name, value in groups["diagnostics"].items()}
        checks += [_tails(values, draws), _gap(values, draws)]
    if set(groups.get("training", xr.Dataset()).get("loss", xr.DataArray()).dims) == CURVE:
        checks += _slope(groups["training"])
    # A file by another program has none of these; its draws are those of chains.
    if (len(checks) == 1 and not ours) or idata.attrs.get("inference_method") in ("nuts", "hmc"):
        checks += _chains(groups)
    if len(checks) == 1:
        raise ValueError(
            f"nothing to check in groups {list(groups)}, expected 'diagnostics', 'training' "
            "or a posterior of chains of draws"
        )
    if "posterior" in groups:
        checks += _in_use(groups["posterior"])
    passed = [ok for ok, _ in checks]
    return Verdict(all(passed), [line for _, line in checks], passed)


def _finite(groups: Datasets, ours: bool) -> tuple[bool, str]:
    bad = []
    for group in ("posterior", "sample_stats", "log_likelihood", "training"):
        for name, values in groups.get(group, xr.Dataset()).data_vars.items():
            if values.dtype.kind not in "fciub":
                continue
            count = sum(int((~np.isfinite(part.values)).sum()) for part in _parts(values))
            if group == "training" and set(values.dims) == CURVE:
                # A chain has no values at steps that only others took.
                there = groups[group].notnull().to_dataarray().any("variable")
                count -= int((~there & there.any("chain")).sum())
            if count == values.size and group == "sample_stats" and not ours:
                continue  # what other programs put where a statistic does not apply
            if count:
                bad.append(f"{count} of {values.size} in {group}/{name}")
    if not bad:
        return True, "all values are finite"
    return False, (
        f"values that are not finite: {', '.join(bad)}; look for data outside the likelihood's "
        "support, or train with a smaller learning rate"
    )


def _parts(values: xr.DataArray) -> Iterator[xr.DataArray]:
    """Some rows at a time: what lies in a file may be more than memory holds."""
    rows = values.sizes.get("datum", 1)
    step = max(1, PART_CELLS * rows // max(1, values.size))
    for start in range(0, rows, step):
        yield values[{"datum": slice(start, start + step)}] if "datum" in values.dims else values


def _tails(values: dict[str, Array], draws: int) -> tuple[bool, str]:
    shapes = values["khat"]
    # The tail of weights that are as good as equal has a shape, but no weight.
    shapes = np.where(values["ess_is"] >= EVEN * draws, np.minimum(shapes, 0), shapes)
    known = shapes[~np.isnan(shapes)]
    if not len(known):
        return False, f"k-hat needs at least {LEAST_DRAWS} draws, got {draws}; export 200"
    limit = khat_threshold(draws)
    share = float((known > limit).mean())
    exact = int(np.isneginf(values["khat"]).sum())
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


def _in_use(posterior: xr.Dataset) -> list[tuple[bool, str]]:
    found = []
    for name, values in posterior.data_vars.items():
        rows = values.sizes.get("datum", 0)
        drawn = {"chain", "draw"} <= set(values.dims)
        if values.dtype.kind != "f" or rows < ACTIVE_ROWS[0] or not drawn:
            continue
        chosen = np.linspace(0, rows - 1, min(rows, ACTIVE_ROWS[1])).astype(int)
        some = values.isel(datum=np.unique(chosen)).load()
        draws = some.sizes["draw"]
        noise = some.var("draw", ddof=1).mean(["chain", "datum"])
        told = some.mean("draw").var("datum", ddof=1).mean("chain") - noise / draws
        active = (told > ACTIVE * (told + noise)).values
        line = f"{int(active.sum())} of {active.size} numbers of {name} tell rows apart"
        if 2 * active.sum() < active.size:
            line += (
                "; the others are drawn as by their prior: a smaller code does as well, or "
                "keep them in use by free bits or an annealed beta"
            )
        found.append((True, line))
    return found


def _slope(training: xr.Dataset) -> list[tuple[bool, str]]:
    return [_slope_of(training.isel(chain=chain)) for chain in range(training.sizes["chain"])]


def _slope_of(training: xr.Dataset) -> tuple[bool, str]:
    training = training.isel(step=~np.isnan(training["loss"].values))
    loss = training["loss"].values
    if "stage" in training and len(loss):
        stage = training["stage"].values
        loss = loss[stage == stage[-1]]
    loss = loss[np.isfinite(loss)]
    count = max(10, math.ceil(len(loss) / 5))
    if len(loss) < 2 * count:
        return True, f"the training curve has {len(loss)} points, too few to tell its slope"
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
        return True, line
    advice = "train longer" if change < 0 else "it rises: use a smaller learning rate"
    return False, f"{line}; {advice}"


def _chains(groups: Datasets) -> list[tuple[bool, str]]:
    posterior = groups.get("posterior", xr.Dataset())
    continuous = posterior[
        [
            name
            for name, values in posterior.data_vars.items()
            if values.dtype.kind == "f" and {"chain", "draw"} <= set(values.dims) and values.size
        ]
    ]
    if not continuous.data_vars:
        return []
    chains = int(posterior.sizes["chain"])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # values that never move have no R-hat
        rhat = az.rhat(continuous).to_dataarray().max().item()
        ess = az.ess(continuous).to_dataarray().min().item()
    good = (chains == 1 or rhat <= RHAT) and ess >= ESS_PER_CHAIN * chains
    line = f"largest R-hat {rhat:.3f} over {chains} chains, least effective draws {ess:.0f}"
    advice = (
        ""
        if good
        else (
            f", expected R-hat up to {RHAT} and {ESS_PER_CHAIN} per chain; more draws and warmup"
        )
    )
    stats = groups.get("sample_stats", xr.Dataset())
    if "diverging" not in stats:
        return [(good, line + advice)]
    diverging = int(stats["diverging"].sum())
    apart = f"{diverging} divergent transitions"
    more = "" if not diverging else "; more warmup, or fewer rows at a time"
    return [(good, line + advice), (diverging == 0, apart + more)]
