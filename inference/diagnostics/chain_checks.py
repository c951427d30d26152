"""Whether chains of draws have settled, and which variable has not.

R-hat above 1.05 or fewer than 100 effective draws per chain fail. Vehtari et al. 2021
(arXiv 1903.08008) ask for 1.01 of one quantity; the largest of 600 quantities of two chains of
independent draws reaches 1.03 at 200 draws and 1.013 at 500. Components that differ by nothing but
their place, such as those of a mixture, may stand in another order in each chain (**label
switching**): R-hat is then large, and that of the draws with their components put in one order is
not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import arviz as az
import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from ppl_models.inference.diagnostics.finding import Finding

RHAT, ESS_PER_CHAIN = 1.05, 100
COMPONENTS = 50  # most components that are put in order


def chain_checks(groups: Mapping[str, xr.Dataset]) -> list[Finding]:
    """Checks of a posterior's floating draws over chains.

    Args:
        groups: With ``posterior``, and ``sample_stats`` for divergences.
    """
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
    checks = []
    if chains > 1:
        checks += _agreement(continuous)
    checks.append(_effective(continuous, chains))
    stats = groups.get("sample_stats", xr.Dataset())
    if "diverging" in stats:
        diverging = int(stats["diverging"].sum())
        checks.append(
            Finding(
                "divergences", diverging == 0, f"{diverging} divergent transitions (at most 0)",
                "more warmup, or fewer rows at a time", figure=diverging, limit=0,
            )
        )  # fmt: skip
    return checks


def _agreement(posterior: xr.Dataset) -> list[Finding]:
    found = {str(name): _rhat(values) for name, values in posterior.data_vars.items()}
    name, largest, where = _extreme(found, largest=True)
    fact = f"the largest R-hat is {largest:.3f}, of {where} (at most {RHAT:g})"
    passed = largest <= RHAT
    check = Finding("R-hat", passed, fact, "more draws and more warmup", name, largest, RHAT)
    return [check] if passed else [check, *_switching(posterior, found)]


def _switching(posterior: xr.Dataset, found: Mapping[str, xr.DataArray]) -> Iterator[Finding]:
    """The first variable whose chains agree once its components stand in one order, if any.

    Those that all rows share come first: by them, components can be put in order.
    """
    high = {name: float(values.max()) for name, values in found.items()}
    high = {name: value for name, value in high.items() if value > RHAT}
    for name in sorted(high, key=lambda name: ("datum" in posterior[name].dims, -high[name])):
        if (ordered := _ordered(posterior[name])) is None:
            continue
        dim, left = ordered
        yield Finding(
            "label switching", False,
            f"the chains have the components of {name} along {dim} in different orders: R-hat "
            f"{high[name]:.3f}, put in one order {left:.3f} (at most {RHAT:g})",
            f"{_way_out(posterior[name], name, dim)}order the components in the model (an ordered "
            f"constraint on {name}), fix one of them by labelled rows, or ask only of what no "
            "order changes",
            name, high[name], RHAT,
        )  # fmt: skip
        return


def _way_out(values: xr.DataArray, name: str, dim: str) -> str:
    """The call that puts components in order, where the variable can tell one."""
    own = [str(d) for d in values.dims if d not in ("chain", "draw")]
    if "datum" in own:
        return ""
    call = f'idata, by="{name}"'
    if len(own) > 1:
        places = ", ".join("0" * (len(own) - 1))
        call += f", coordinate={places if len(own) == 2 else f'({places})'}"
    call += f', components="{dim}"' if own[0] != dim else ""
    return f"inference.relabelled({call}), "


def _effective(posterior: xr.Dataset, chains: int) -> Finding:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # values that never move have none
        ess = az.ess(posterior)
    found = {str(name): values for name, values in ess.data_vars.items()}
    name, least, where = _extreme(found, largest=False)
    limit = ESS_PER_CHAIN * chains
    return Finding(
        "effective draws", least >= limit,
        f"the fewest effective draws are {least:.0f}, of {where} (at least {limit}, "
        f"{ESS_PER_CHAIN} per chain)",
        "more draws", name, least, limit,
    )  # fmt: skip


def _rhat(values: xr.DataArray) -> xr.DataArray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # values that never move have no R-hat
        found: xr.DataArray = az.rhat(values.to_dataset(name="x"))["x"]
    return found


def _extreme(found: Mapping[str, xr.DataArray], largest: bool) -> tuple[str, float, str]:
    """Variable, figure and place of the extreme one; what is NaN everywhere does not count."""
    best = "", float("nan"), "any variable: none can be computed"
    for name, values in found.items():
        array = np.asarray(values.values, dtype=float)
        if np.isnan(array).all():
            continue
        flat = int(np.nanargmax(array) if largest else np.nanargmin(array))
        value = float(array.reshape(-1)[flat])
        if not value <= best[1] if largest else not value >= best[1]:
            at = np.unravel_index(flat, array.shape)
            place = ", ".join(
                f"{dim} {values[dim].values[n] if dim in values.coords else n}"
                for dim, n in zip(values.dims, at, strict=True)
            )
            best = name, value, f"{name} ({place})" if place else name
    return best


def _ordered(values: xr.DataArray) -> tuple[str, float] | None:
    """The dimension whose components are in another order in each chain, and R-hat without.

    Each draw's components are matched with the mean of the first chain's.
    """
    for dim in values.dims:
        size = values.sizes[dim]
        if dim in ("chain", "draw", "datum") or not 2 <= size <= COMPONENTS:
            continue
        array = values.transpose("chain", "draw", dim, ...).values
        flat = array.reshape(*array.shape[:3], -1).astype(float)
        if not np.isfinite(flat).all():
            continue
        centre = flat[0].mean(0)
        cost = ((flat[:, :, :, None] - centre[None, None, None]) ** 2).sum(-1)
        order = np.array([[linear_sum_assignment(draw.T)[1] for draw in chain] for chain in cost])
        put = np.take_along_axis(flat, order[..., None], 2)
        matched = xr.DataArray(put, dims=("chain", "draw", dim, "rest"))
        left = float(_rhat(matched).max())
        if left <= RHAT:
            return str(dim), left
    return None
