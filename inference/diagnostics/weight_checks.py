r"""What importance weights of the guide's draws say: their tails, their mean, the guide's width.

- **k-hat** of a row is the shape of the tail of its importance weights. Above
  min(1 - 1/log10(S), 0.7) with S draws the weighted estimates have not settled (Vehtari et al.
  2024, arXiv 1507.02646). Its standard error is about (1 + k) / sqrt(3 sqrt(S)), 0.2 at
  S = 200, so that one row in ten of a good guide (k = 0.3) passes the threshold by chance:
  a fifth of the rows (:data:`KHAT_SHARE`) is twice that. k-hat sees a guide that is too narrow;
  one that is a little too wide hides from it.
- **Gap** between iw_bound and elbo of a row, an estimate of KL(q || p). For log weights that are
  Normal the effective share of the draws is exp(-2 gap): above log(S) / 2 nats less than one
  draw in S counts, and the guide's draws stand for nothing but the guide.
- **Width** of a Normal factor. With u the standardised draw and w its weight, Stein's identity
  gives :math:`E[(u^2 - 1) \log w] = E[\partial^2 \log w / \partial u^2] = 1 - k^2`, where k is the
  guide's standard deviation over :math:`(-E\,\partial^2 \log p)^{-1/2}`, the one that maximises
  the ELBO. The mean over rows is looked at, for the number of a code where it is farthest from
  zero. Importance-weighted bounds and heavy weights on the KL make guides somewhat wider:
  a factor of 2 (:data:`WIDTH`) is 0.8 nats of KL for a single number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from ppl_models.inference.diagnostics.finding import Finding
from ppl_models.inference.posterior.groups import Array, entry_name
from ppl_models.inference.posterior.importance_weights import EVEN, khat_threshold
from ppl_models.inference.posterior.pareto import LEAST_DRAWS

Datasets = Mapping[str, xr.Dataset]

KHAT_SHARE = 0.2
WIDTH = 2.0
WIDTH_ROWS = 20, 500  # least and most rows from which the width is estimated
SURE = 5.0  # standard errors by which a width must be beyond its limit


def weight_checks(groups: Datasets) -> list[Finding]:
    """Checks of a guide's draws; none of what is no guide's posterior.

    Args:
        groups: With ``diagnostics`` and ``sample_stats``.
    """
    found = groups.get("diagnostics", xr.Dataset())
    if not {"khat", "ess_is", "iw_bound", "elbo"} <= set(found):
        return []
    draws = int(groups["sample_stats"].sizes["draw"])
    values = {str(name): value.values for name, value in groups["diagnostics"].items()}
    return [_tails(values, draws), _gap(values, draws), *_widths(groups)]


def _tails(values: dict[str, Array], draws: int) -> Finding:
    shapes = values["khat"]
    # The tail of weights that are as good as equal has a shape, but no weight.
    shapes = np.where(values["ess_is"] >= EVEN * draws, np.minimum(shapes, 0), shapes)
    known = shapes[~np.isnan(shapes)]
    if not len(known):
        return Finding(
            "k-hat", False, f"k-hat needs at least {LEAST_DRAWS} draws, and there are {draws}",
            "export 200 draws", figure=draws, limit=LEAST_DRAWS,
        )  # fmt: skip
    limit = khat_threshold(draws)
    share = float((known > limit).mean())
    exact = int(np.isneginf(values["khat"]).sum())
    fact = f"k-hat is above {limit:.2f} in {share:.1%} of {len(known)} rows"
    fact += f", {exact} of which have constant weights" if exact else ""
    return Finding(
        "k-hat", share <= KHAT_SHARE, f"{fact} (at most {KHAT_SHARE:.0%})",
        "train longer or with IWELBO, or give the guide a richer family: it is too narrow or "
        "far too wide",
        figure=share, limit=KHAT_SHARE,
    )  # fmt: skip


def _gap(values: dict[str, Array], draws: int) -> Finding:
    gap, limit = float(np.median(values["iw_bound"] - values["elbo"])), 0.5 * math.log(draws)
    return Finding(
        "gap", gap <= limit,
        f"iw_bound - elbo of the median row is {gap:.3g} nats (at most {limit:.2f})",
        "train longer, give the guide larger networks, or compare with inference.nuts on a few "
        "rows: the guide is far from the posterior",
        figure=gap, limit=limit,
    )  # fmt: skip


def _widths(groups: Datasets) -> Iterator[Finding]:
    posterior, variational = (groups.get(n, xr.Dataset()) for n in ("posterior", "variational"))
    for name in posterior:
        if {f"{name}_loc", f"{name}_scale"} <= set(variational):
            loc, scale = variational[f"{name}_loc"], variational[f"{name}_scale"]
            yield from _width(str(name), groups, loc, scale)


def _width(
    name: str, groups: Datasets, loc: xr.DataArray, scale: xr.DataArray
) -> Iterator[Finding]:
    posterior, weights = groups["posterior"], groups["sample_stats"].get("log_weight")
    rows = posterior[name].sizes.get("datum", 0)
    labels = [str(dim)[: -len("_class")] for dim in loc.dims if str(dim).endswith("_class")]
    if weights is None or rows < WIDTH_ROWS[0] or not set(labels) <= set(posterior):
        return
    count = posterior[name].sizes["draw"]
    at = {"datum": np.unique(np.linspace(0, rows - 1, min(rows, WIDTH_ROWS[1])).astype(int))}
    places = {f"{label}_class": posterior[label][at].load().variable for label in labels}
    log_w = weights[at][{"draw": slice(count)}].load().variable
    # By position: draws come for the first rows only, parameters for all.
    own = [values[at].variable[places] if places else values[at].variable
           for values in (loc, scale)]  # fmt: skip
    u = ((posterior[name][at].load().variable - own[0]) / own[1]).astype(float)
    curved = ((u**2 - 1) * (log_w - log_w.mean("draw"))).mean("draw")
    curved = curved.mean("chain") if "chain" in curved.dims else curved
    each = curved.transpose("datum", ...).values.reshape(len(at["datum"]), -1)
    each = each[np.isfinite(each).all(1)]
    if len(each) < WIDTH_ROWS[0]:
        return
    mean, error = each.mean(0), each.std(0, ddof=1) / math.sqrt(len(each))
    factor = np.sqrt((1 - mean).clip(min=0))
    worst = int(np.abs(np.log(factor.clip(1e-3))).argmax())
    shape = posterior[name].shape[3:]
    too_wide, too_narrow = 1 - WIDTH**2, 1 - WIDTH**-2
    wide = mean[worst] + SURE * error[worst] < too_wide
    narrow = mean[worst] - SURE * error[worst] > too_narrow
    wrong = "wide" if wide else "narrow"
    yield Finding(
        "width", not (wide or narrow),
        f"the guide's standard deviation of {entry_name(name, shape, worst)} is "
        f"{factor[worst]:.2g} times the best one ({1 / WIDTH:g} to {WIDTH:g})",
        f"train longer, with the ELBO (kl weight 1), or with another seed: it is too {wrong}",
        variable=name, figure=float(factor[worst]),
        limit=WIDTH if factor[worst] > 1 else 1 / WIDTH,
    )  # fmt: skip
