r"""Scores of every row of a posterior, read from its InferenceData alone.

Comparisons and plots take means of these, so that standard errors, and those of paired
differences, are those of a mean of rows.

- **Log evidence**: the bound log 1/S sum_s w_s of the guide's draws (``iw_bound``).
- **LOO**: log p(x_n | all but the row's own data point), by Pareto-smoothed importance sampling
  (Vehtari, Gelman, Gabry 2017, arXiv 1507.04544); for draws of a guide q the ratios are
  p(z) / q(z) in place of 1 / p(x | z). They draw on the row's own code: where many of its
  k-hats are high, go by the log evidence.
- **Calibration error** of q(y | x) (Guo et al. 2017, arXiv 1706.04599): with the rows in bins of
  equal width by the probability of their most probable label, the mean distance between that
  probability and the share of right labels. It is a sum over rows of s_b (probability - right),
  s_b the sign of the bin's own mean, which gives its standard error to first order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import arviz as az
import numpy as np
import xarray as xr

from ppl_models.config import unknown
from ppl_models.inference.diagnostics.calibration import BINS
from ppl_models.inference.posterior.groups import Array, groups_of
from ppl_models.inference.posterior.pareto import smoothed


@dataclass(frozen=True)
class KnownLabels:
    """A label's probabilities in the rows in which it is known.

    Attributes:
        probs: ``(N, C)``.
        truth: The label's place among its classes ``(N,)``.
        classes: Names of the classes.
    """

    probs: Array
    truth: Array
    classes: tuple[str, ...]

    @property
    def predicted(self) -> Array:
        """Most probable label ``(N,)``."""
        places: Array = self.probs.argmax(-1)
        return places

    @property
    def wrong(self) -> Array:
        """1 where the most probable label is not the true one ``(N,)``."""
        wrong: Array = (self.predicted != self.truth).astype(float)
        return wrong


def label_sites(idata: az.InferenceData) -> list[str]:
    """Labels with probabilities and at least one row in which the truth is known."""
    if "constant_data" not in groups_of(idata):
        return []
    ends = [str(name) for name in idata.constant_data.data_vars if str(name).endswith("_true")]
    sites = [name.removesuffix("_true") for name in ends]
    return [s for s in sites if label_probs(idata, s) is not None and _known(idata, s).any()]


def labels(idata: az.InferenceData, site: str | None = None) -> KnownLabels:
    """A label's probabilities and truth.

    Args:
        idata: From a guide (q(y | x)) or from MCMC (the mean over the draws).
        site: The label; the first by default.

    Raises:
        ValueError: If there is no such label, or its truth is known in no row.
    """
    sites = label_sites(idata)
    if not sites:
        raise ValueError("no label with probabilities and a known truth, expected at least one")
    site = sites[0] if site is None else site
    if site not in sites:
        raise ValueError(unknown("label", site, sites))
    probs = label_probs(idata, site)
    assert probs is not None
    known = _known(idata, site)
    group = "variational" if "variational" in groups_of(idata) else "posterior"
    classes = tuple(map(str, idata[group][f"{site}_class"].values))
    return KnownLabels(probs[known], idata.constant_data[f"{site}_true"].values[known], classes)


def label_probs(idata: az.InferenceData, site: str) -> Array | None:
    """Probabilities of a label ``(N, C)``, means over draws and chains; None if there are none."""
    for group in ("variational", "posterior"):
        if group in groups_of(idata) and f"{site}_probs" in idata[group]:
            found = idata[group][f"{site}_probs"]
            found = found.mean([dim for dim in ("chain", "draw") if dim in found.dims])
            if found.dims == ("datum", f"{site}_class"):
                values: Array = found.values.astype(float)
                return values
    return None


def _known(idata: az.InferenceData, site: str) -> Array:
    data = idata.constant_data
    truth = data[f"{site}_true"].values >= 0
    known: Array = truth & data[f"{site}_mask"].values if f"{site}_mask" in data else truth
    return known


def calibration(found: KnownLabels, bins: int = BINS) -> Array:
    """What each row adds to the expected calibration error, which is the mean ``(N,)``."""
    sure = found.probs.max(-1)
    excess = sure - (1 - found.wrong)
    place = np.clip((sure * bins).astype(int), 0, bins - 1)
    signs = np.sign(np.bincount(place, excess, bins))
    rows: Array = signs[place] * excess
    return rows


def reliability(found: KnownLabels, bins: int = BINS) -> tuple[Array, Array, Array]:
    """Mean probability, share of right labels and number of rows of each bin that has any."""
    sure = found.probs.max(-1)
    place = np.clip((sure * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    some = count > 0
    mean = np.bincount(place, sure, bins)[some] / count[some]
    right = np.bincount(place, 1 - found.wrong, bins)[some] / count[some]
    return mean, right, count[some]


def per_row(idata: az.InferenceData, name: str) -> Array | None:
    """A diagnostic of each row ``(N,)``, None where there is none.

    Of several chains, which are fits of their own, the mean; of k-hats the largest.
    """
    if "diagnostics" not in groups_of(idata) or name not in idata.diagnostics:
        return None
    found = idata.diagnostics[name]
    if "chain" in found.dims:
        found = found.max("chain") if name == "khat" else found.mean("chain")
    values: Array = found.values
    return values


def log_evidence(idata: az.InferenceData) -> Array | None:
    """Lower bound of log p(x) of each row ``(N,)``, nats; None without weights."""
    return per_row(idata, "iw_bound")


def loo(idata: az.InferenceData) -> tuple[Array, Array] | None:
    """Leave-one-out log density of each row and its k-hat, each ``(N,)``; None without draws.

    Several data sites of a row are left out together. Draws of MCMC count as independent
    (``az.loo(..., reff=1)``).
    """
    groups = groups_of(idata)
    total = log_likelihood(groups)
    if total is None or not {"datum", "chain", "draw"} <= set(total.dims):
        return None
    log_p = total.stack(sample=("chain", "draw")).transpose("sample", "datum")
    ratios = -log_p.values.astype(float)
    if "log_weight" in groups.get("sample_stats", {}):
        of_guide = groups["sample_stats"]["log_weight"].sel(draw=total["draw"])
        of_guide = of_guide.stack(sample=("chain", "draw")).transpose("sample", "datum")
        ratios = ratios + of_guide.values
    log_weights, shapes = smoothed(ratios)
    found: Array = np.logaddexp.reduce(log_weights + log_p.values, 0)
    return found, shapes


def log_likelihood(groups: Mapping[str, xr.Dataset]) -> xr.DataArray | None:
    """Log-likelihood of all data of each draw and row, None where there is none.

    Files of earlier versions have a variable for each data site, which are added up.
    """
    found = groups.get("log_likelihood", xr.Dataset())
    parts = [found[name] for name in found.data_vars]
    if len({part.dims for part in parts}) != 1:
        return None
    return sum(parts[1:], parts[0])
