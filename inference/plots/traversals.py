"""What the parts of a code do: data as one of them moves and all else stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import arviz as az
import numpy as np
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_models.config import unknown
from ppl_models.covariates import empty
from ppl_models.inference.plots.fit_checks import axes
from ppl_models.inference.plots.samples import data_sites, image_shape, images, mosaic
from ppl_models.inference.posterior.groups import Array, groups_of
from ppl_models.inference.posterior.known_rows import covariates_in
from ppl_models.inference.posterior.rows import undisturbed
from ppl_models.inference.traces.sites import random_sites
from ppl_models.interventions import follow
from ppl_models.pair import Pair
from ppl_models.printable import in_figure
from ppl_models.spherical import sphere

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS, MOST = 9, 10  # values of each part, parts shown
ENDS = (0.025, 0.975)  # of the posterior draws of all rows


def traversal(
    pair: Pair,
    idata: az.InferenceData,
    site: str | None = None,
    row: int = 0,
    data: str | None = None,
    dims: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The mean of a data site as one latent site moves away from a row's own draw.

    The starting point is the row's draw of largest joint density. What depends on the moved
    site follows by its mean, all else stays.

    A code: a line for each of its entries, moved over the central 95 % of the posterior draws
    of all rows. A label: a line for each of eight rows, a column for each class. Images, or, for
    vectors, the change of every entry of the data between both ends (labels: from the mean of
    all classes), in standard deviations of the data.

    Args:
        pair: The fitted pair.
        idata: Its posterior.
        site: The latent site; the last one that is no label by default.
        row: Position of the row to start from (labels: the first of eight).
        data: The data site; the first by default.
        dims: Entries of the code; the ten that vary most between rows by default.
        ax: Axes to draw into.

    Raises:
        ValueError: If a site, row or entry is not there.
    """
    latents = latent_sites(idata)
    codes = [name for name in latents if idata.posterior[name].dtype.kind == "f"]
    site = (codes or latents)[-1] if site is None else site
    if site not in latents:
        raise ValueError(unknown("latent site", site, latents))
    known = data_sites(idata)
    data = known[0] if data is None and known else data
    if data not in known:
        raise ValueError(unknown("data site", data, known))
    count = idata.posterior.sizes["datum"]
    if not 0 <= row < count:
        raise ValueError(f"row is {row}, expected a position in 0..{count - 1}")
    if site in codes:
        shown, names = _code(pair, idata, site, row, data, dims)
        label, columns = f"entry of {in_figure(site)}", ["low"] + [""] * (STEPS - 2) + ["high"]
    else:
        shown, names, columns = _label(pair, idata, site, row, data)
        label = "row"
    ax = axes(ax)
    shape = image_shape(idata, data)
    if shape is not None:
        flat = shown.reshape(-1, *shown.shape[2:])
        down, across = mosaic(ax, images(flat, shape), shown.shape[1])
        few = -(-len(columns) // 30)
        ax.set_xticks(across[::few], columns[::few], rotation=90 if len(columns) > 12 else 0)
        ax.tick_params(length=0)
    else:
        real = idata.observed_data[data].values.reshape(count, -1)
        if site in codes:
            change = shown[:, -1] - shown[:, 0]
        else:
            change, names, label = shown[0] - shown[0].mean(0), columns, in_figure(site)
        change = change.reshape(len(change), -1) / (_spread(real) + 1e-12)
        most = np.abs(change).max() or 1.0
        drawn = ax.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        ax.figure.colorbar(drawn, ax=ax, label="change, sd of the data")
        ax.set_xlabel(f"entry of {in_figure(data)}")
        down = np.arange(len(change))
    few = -(-len(names) // 20)
    ax.set_yticks(down[::few], names[::few])
    ax.set_ylabel(label)
    return ax


def latent_sites(idata: az.InferenceData) -> list[str]:
    """Latent sites of the rows, in the order in which the guide draws them."""
    posterior = idata.posterior.data_vars
    names = [str(n) for n in np.atleast_1d(idata.attrs.get("sampled_variables", list(posterior)))]
    return [n for n in names if n in posterior and "datum" in posterior[n].dims]


def _code(
    pair: Pair,
    idata: az.InferenceData,
    site: str,
    row: int,
    data: str,
    dims: Sequence[int] | None,
) -> tuple[Array, list[str]]:
    draws = idata.posterior[site].stack(sample=("chain", "draw")).transpose("datum", "sample", ...)
    values = draws.values.reshape(*draws.shape[:2], -1)
    active = values.mean(1).var(0)
    there = np.isfinite(values[row]).all(0)  # of a set, the elements that the row has
    active[there] = _spread(values[:, :, there].mean(1)) ** 2
    ranked = np.argsort(-np.where(there, active, -np.inf))[: min(MOST, there.sum())]
    chosen = ranked.tolist() if dims is None else list(dims)
    bad = [dim for dim in chosen if not 0 <= dim < len(active)]
    if bad:
        raise ValueError(f"dims has {bad[0]}, expected entries in 0..{len(active) - 1}")
    every = values.reshape(-1, len(active))
    quantile = np.nanquantile if np.isnan(every).any() else np.quantile
    ends = np.full((2, len(active)), np.nan)
    ends[:, there] = quantile(every[:, there], ENDS, axis=0)
    start = _start(pair, idata, row, STEPS)
    support = _nodes(pair, idata)[site]["fn"].support
    found = []
    for dim in chosen:
        moved = start[site].clone().reshape(STEPS, -1)
        low, high = ends[:, dim].tolist()
        moved[:, dim] = torch.linspace(low, high, STEPS).to(moved)
        kept = {**start, site: _inside(support, moved.reshape(start[site].shape), dim)}
        found.append(_means(pair, kept, site, STEPS, data, _covariates(pair, idata, [row])))
    return np.stack(found), [str(dim) for dim in chosen]


def _inside(support: Any, moved: Tensor, entry: int) -> Tensor:
    """Codes with one entry moved; the others of a direction, or of shares, make room for it.

    Args:
        support: The site's support.
        moved: ``(STEPS, ..., K)``.
        entry: Place of what has moved among the numbers of a code.
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support not in (sphere, constraints.simplex):
        return moved
    power = 2 if support is sphere else 1
    vectors = moved.clone().reshape(len(moved), -1, moved.shape[-1])
    vector, place = divmod(entry, moved.shape[-1])
    others = vectors[:, vector].clone()
    others[:, place] = 0
    others[(others == 0).all(-1)] = 1  # at a pole there is no direction to take the rest
    others[:, place] = 0
    room = (1 - vectors[:, vector, place].abs() ** power).clamp(min=0)
    scale = (room / (others.abs() ** power).sum(-1)) ** (1 / power)
    at = vectors[:, vector, place].clone()
    vectors[:, vector] = others * scale.unsqueeze(-1)
    vectors[:, vector, place] = at
    return vectors.reshape(moved.shape)


def _spread(values: Array) -> Array:
    """Standard deviation ``(D,)`` of rows ``(N, D)``, over those that have the entry."""
    known = np.isfinite(values)
    if known.all():
        spread: Array = values.std(0)
        return spread
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / count
    found: Array = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(0) / count)
    return found


def _label(
    pair: Pair, idata: az.InferenceData, site: str, row: int, data: str
) -> tuple[Array, list[str], list[str]]:
    support = _supports(pair, idata)[site]
    count = idata.posterior.sizes["datum"]
    rows = [(row + shift) % count for shift in range(min(8, count))]
    found = []
    for one in rows:
        start = _start(pair, idata, one, len(support))
        like = start[site]  # in plates within the rows all entries move alike
        each = support.reshape(
            len(support), *[1] * (like.dim() - support.dim()), *support.shape[1:]
        )
        kept = {**start, site: each.expand(like.shape)}
        own = _covariates(pair, idata, [one])
        found.append(_means(pair, kept, site, len(support), data, own))
    numbers = [in_figure(idata.posterior["datum"].values[one]) for one in rows]
    group = idata.get("variational", idata.posterior)
    names = group[f"{site}_class"].values if f"{site}_class" in group else range(len(support))
    return np.stack(found), numbers, list(map(in_figure, names))


def _means(
    pair: Pair,
    kept: dict[str, Tensor],
    moved: str,
    rows: int,
    data: str,
    covariates: dict[str, Array],
) -> Array:
    with undisturbed(pair, 0):
        means: Array = follow(pair, kept, moved, rows, covariates)[data].cpu().numpy()
    return means


def _covariates(pair: Pair, idata: az.InferenceData, rows: slice | list[int]) -> dict[str, Array]:
    return covariates_in(pair, groups_of(idata).get("constant_data", xr.Dataset()), rows)


def _start(pair: Pair, idata: az.InferenceData, row: int, rows: int) -> dict[str, Tensor]:
    """The draw of largest joint density of a row, as many times as there are rows."""
    kept = idata.posterior.sizes["draw"] * idata.posterior.sizes["chain"]
    place = 0  # any draw, where rows have no evidence
    if "log_p" in groups_of(idata).get("sample_stats", ()):
        stats = idata.sample_stats.isel(datum=row)["log_p"].stack(sample=("chain", "draw"))
        place = int(stats.values[:kept].argmax())
    supports, like = _supports(pair, idata), pair.like()
    start = {}
    for name in latent_sites(idata):
        draws = idata.posterior[name].isel(datum=row).stack(sample=("chain", "draw"))
        value = torch.as_tensor(draws.transpose("sample", ...).values[place], device=like.device)
        if name in supports:
            value = supports[name][value.long().clamp(min=0)]
        elif value.is_floating_point():
            value = value.to(like.dtype).nan_to_num()  # elements that the row has not
        start[name] = value.expand(rows, *value.shape).clone()
    return start


def _supports(pair: Pair, idata: az.InferenceData) -> dict[str, Tensor]:
    """Values of every label, which the posterior stores as places among them."""
    nodes, found = _nodes(pair, idata), {}
    for name in latent_sites(idata):
        fn = nodes[name]["fn"]
        if fn.has_enumerate_support:
            found[name] = fn.enumerate_support(expand=False).reshape(-1, *fn.event_shape)
    return found


def _nodes(pair: Pair, idata: az.InferenceData) -> dict[str, Any]:
    """The sites of the model, of one new row."""
    with undisturbed(pair, 0), torch.no_grad():
        batch = empty(pair, 1, _covariates(pair, idata, slice(0, 1)))
        return dict(random_sites(poutine.trace(pair.model).get_trace(batch)))
