r"""Whether codes say anything of their rows, and whether the decoder listens.

- **Units in use**: the variance over rows of a code's mean, as a share of all its variance,
  corrected for the noise of the mean (Burda et al. 2016, arXiv 1509.00519, with the aggregate
  posterior in place of the prior). Below 1 % (:data:`ACTIVE`) a number says nothing of its row.
  That is no fault, as its posterior then is its prior, unless no number of any code is in use:
  the codes have collapsed, and the fit has learnt nothing.
- **Decoder**: log p(x | codes) of a row must change from draw to draw, by a standard deviation of
  about sqrt(K / 2) nats where K numbers are in use. Below 0.1 nats (:data:`HEARD`) in the median
  row, the data do not depend on the codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from ppl_models.inference.diagnostics.finding import Finding
from ppl_models.inference.diagnostics.row_scores import log_likelihood

ACTIVE = 0.01
ACTIVE_ROWS = 20, 1000  # least and most rows from which units in use are counted
SURE = 4  # standard errors of what the noise of the means comes to by chance
HEARD = 0.1


def code_checks(groups: Mapping[str, xr.Dataset]) -> list[Finding]:
    """Checks of the codes of rows.

    Args:
        groups: With ``posterior``, and ``log_likelihood`` for the decoder.
    """
    posterior = groups.get("posterior", xr.Dataset())
    counts = list(_in_use(posterior))
    found = [_used(*each, any(active for _, active, _ in counts)) for each in counts]
    return [*found, *_heard(groups)] if found else []


def _used(name: str, active: int, count: int, other: bool) -> Finding:
    fact = f"{active} of {count} numbers of {name} tell rows apart"
    if other and 2 * active < count:
        rest = "the others are" if active else "they are"
        fact += f", {rest} drawn as by their prior"
    return Finding(
        "units in use", other, f"{fact} (at least 1 of any code)",
        "train longer, anneal the weight of the KL from 0 (ELBO(beta=Anneal(0, 1))), keep "
        "numbers in use by free bits, or try another seed: the codes have collapsed",
        variable=name, figure=active, limit=1,
    )  # fmt: skip


def _some(values: xr.DataArray) -> xr.DataArray:
    rows = values.sizes["datum"]
    places = np.linspace(0, rows - 1, min(rows, ACTIVE_ROWS[1])).astype(int)
    return values.isel(datum=np.unique(places)).load()


def _in_use(posterior: xr.Dataset) -> Iterator[tuple[str, int, int]]:
    """By code, how many numbers are in use and how many there are."""
    for name, values in posterior.data_vars.items():
        rows = values.sizes.get("datum", 0)
        drawn = {"chain", "draw"} <= set(values.dims) and values.sizes["draw"] > 1
        classes = any(str(dim).endswith("_class") for dim in values.dims)
        if values.dtype.kind != "f" or rows < ACTIVE_ROWS[0] or not drawn or classes:
            continue
        some = _some(values)
        noise = some.var("draw", ddof=1).mean(["chain", "datum"])
        of_mean = noise / some.sizes["draw"]
        told = some.mean("draw").var("datum", ddof=1).mean("chain") - of_mean
        chance = of_mean * math.sqrt(2 / some.sizes["chain"] / (some.sizes["datum"] - 1))
        in_use = told > np.maximum(ACTIVE * (told + noise), SURE * chance)
        yield str(name), int(in_use.sum()), int(noise.size)


def _heard(groups: Mapping[str, xr.Dataset]) -> Iterator[Finding]:
    total = log_likelihood(groups)
    if total is None or set(total.dims) != {"chain", "draw", "datum"}:
        return
    if total.sizes["draw"] < 2 or total.sizes["datum"] < ACTIVE_ROWS[0]:
        return
    total = _some(total).astype(float)
    deviation = float(total.std("draw", ddof=1).mean("chain").median())
    sites = groups.get("log_likelihood_by_site", groups["log_likelihood"])
    names = ", ".join(map(str, sites.data_vars))
    yield Finding(
        "decoder", deviation >= HEARD,
        f"log p({names} | codes) of the median row changes by {deviation:.2g} nats from draw to "
        f"draw (at least {HEARD:g})",
        "train longer, anneal the weight of the KL from 0, give the likelihood less noise, or try "
        "another seed: the data do not depend on the codes",
        variable=names, figure=deviation, limit=HEARD,
    )  # fmt: skip
