"""Plots of data and of data that the model makes: pictures, or bands for plain vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import arviz as az
import numpy as np
import xarray as xr

from ppl_models.config import unknown
from ppl_models.data.render.contact_sheet import sheet
from ppl_models.data.tables.image_shapes import with_channels
from ppl_models.data.tables.positions import positions
from ppl_models.inference.plots.fit_checks import axes
from ppl_models.inference.plots.kernel_density import kernel_density
from ppl_models.inference.posterior.groups import Array, groups_of
from ppl_models.printable import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 1  # pixels between pictures
BAND = (0.05, 0.5, 0.95)
GROUPS = {"prior": "prior_predictive", "posterior": "posterior_predictive"}


def image_shape(idata: az.InferenceData, site: str) -> tuple[int, ...] | None:
    """Shape of a site's images; None where it is a plain vector."""
    shape = idata.attrs.get(f"{site}_shape")
    return None if shape is None else tuple(int(size) for size in np.atleast_1d(shape))


def images(values: Array, shape: Sequence[int]) -> Array:
    """Flat values ``(n, ...)`` as images ``(n, h, w)`` or ``(n, h, w, 3)``.

    Sets of images ``(k, h, w)`` stand below each other; other numbers of channels than 3 are
    drawn as their mean.
    """
    image = with_channels(shape)
    if image is None:
        return values.reshape(len(values), -1, shape[-1])
    found = values.reshape(len(values), *image)
    return found if image[2] == 3 else found.mean(-1)


def mosaic(ax: Axes, pictures: Array, columns: int) -> tuple[Array, Array]:
    """Draw images in lines; returns the places of the lines and of the columns, in pixels."""
    page = sheet(pictures, columns, GAP)
    ax.imshow(page, interpolation="none")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    height, width = pictures.shape[1] + GAP, pictures.shape[2] + GAP
    down = GAP + height * np.arange(-(-len(pictures) // columns)) + (height - GAP - 1) / 2
    across = GAP + width * np.arange(min(columns, len(pictures))) + (width - GAP - 1) / 2
    return down, across


def data_sites(idata: az.InferenceData) -> list[str]:
    """Data sites of numbers (not labels) that were observed and that the posterior redraws."""
    if "observed_data" not in groups_of(idata):
        return []
    found = idata.observed_data.data_vars.items()
    return [str(n) for n, v in found if v.dtype.kind == "f" and "datum" in v.dims]


def reconstructions(
    idata: az.InferenceData,
    site: str | None = None,
    rows: Sequence[int] | None = None,
    draws: int = 2,
    ax: Axes | None = None,
) -> Axes:
    """Rows beside the model's data given their codes.

    Images: a column per row, with the data, the mean of the draws and single draws below each
    other. Vectors: a colour per row, dots for the data, a line and a band for the median and
    the central 90 % of the draws, all in standard deviations of the data.

    Args:
        idata: A posterior with ``observed_data`` and ``posterior_predictive``.
        site: The data site; the first by default.
        rows: Positions in the posterior; eight (vectors: three) spread over it by default.
        draws: Single draws of an image.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no such site, nothing was redrawn, or a row is not there.
    """
    site, data, drawn = _pair(idata, site, "posterior")
    shape = image_shape(idata, site)
    count = data.sizes["datum"]
    if rows is None:
        rows = np.unique(np.linspace(0, count - 1, 3 if shape is None else 8).astype(int)).tolist()
    chosen = positions(rows, count, "the posterior").tolist()
    if not chosen:
        raise ValueError("no rows chosen of the posterior, expected at least one")
    seen = data.isel(datum=chosen)
    again = drawn.isel(datum=chosen).stack(sample=("chain", "draw"))
    again = again.transpose("sample", "datum", ...)
    ax = axes(ax)
    numbers = [in_figure(number) for number in seen["datum"].values]
    if shape is not None:
        draws = min(draws, again.sizes["sample"])
        lines = [seen.values, again.values.mean(0), *again.values[:draws]]
        down, across = mosaic(ax, images(np.concatenate(lines), shape), len(chosen))
        ax.set_yticks(down, ["data", "mean", *["draw"] * draws])
        ax.set_xticks(across, numbers, rotation=90 if len(numbers) > 5 else 0)
        ax.tick_params(length=0)
        ax.set_xlabel("row")
        return ax
    flat = data.values.reshape(count, -1)
    centre, spread = flat.mean(0), flat.std(0) + 1e-12
    place = np.arange(flat.shape[1])
    for colour, (number, row) in enumerate(zip(numbers, chosen, strict=True)):
        values = (again.values[:, colour].reshape(len(again), -1) - centre) / spread
        low, middle, high = np.quantile(values, BAND, axis=0)
        ax.fill_between(place, low, high, color=f"C{colour}", alpha=0.2, linewidth=0)
        ax.plot(place, middle, color=f"C{colour}", linewidth=1)
        dots = (flat[row] - centre) / spread
        ax.plot(place, dots, "o", color=f"C{colour}", markersize=3, label=f"row {number}")
    ax.legend(fontsize="small")
    _entries(ax, site)
    ax.set_ylabel("standard deviations of the data")
    return ax


def predictive(
    idata: az.InferenceData,
    group: str = "prior",
    site: str | None = None,
    count: int = 32,
    ax: Axes | None = None,
) -> Axes:
    """Data that the model makes, from the prior or from the posterior.

    Images: single draws. Vectors: median and central 90 % of the draws and of the data in each
    entry, in standard deviations of the data.

    Args:
        idata: A posterior with ``prior_predictive`` or ``posterior_predictive``.
        group: ``"prior"`` or ``"posterior"``.
        site: The data site; the first by default.
        count: Number of images.
        ax: Axes to draw into.

    Raises:
        ValueError: If the group or site is unknown or not in the posterior.
    """
    site, data, drawn = _pair(idata, site, group)
    samples = drawn.stack(sample=[d for d in ("chain", "draw", "datum") if d in drawn.dims])
    shape = image_shape(idata, site)
    ax = axes(ax)
    if shape is not None:
        every = np.unique(np.linspace(0, samples.sizes["sample"] - 1, count).astype(int))
        pictures = samples.isel(sample=every).transpose("sample", ...).values
        mosaic(ax, images(pictures, shape), 8)
        return ax
    real = data.values.reshape(data.sizes["datum"], -1)
    made = samples.transpose("sample", ...).values.reshape(-1, real.shape[1])
    centre, spread = real.mean(0), real.std(0) + 1e-12
    place = np.arange(real.shape[1])
    for values, colour, name in ((real, "C7", "data"), (made, "C0", "model")):
        low, middle, high = np.quantile((values - centre) / spread, BAND, axis=0)
        ax.fill_between(place, low, high, color=colour, alpha=0.3, linewidth=0)
        ax.plot(place, middle, color=colour, label=name)
    ax.legend(fontsize="small")
    _entries(ax, site)
    ax.set_ylabel("standard deviations of the data")
    return ax


def density(idata: az.InferenceData, site: str | None = None, ax: Axes | None = None) -> Axes:
    """Density of all entries of a site, in the data, in 50 draws and in these together.

    Args:
        idata: A posterior with ``observed_data`` and ``posterior_predictive``.
        site: The data site; the first by default.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no such site, or nothing was redrawn.
    """
    site, data, drawn = _pair(idata, site, "posterior")
    ax = axes(ax)
    samples = drawn.stack(sample=("chain", "draw"))
    every = np.unique(np.linspace(0, samples.sizes["sample"] - 1, 50).astype(int))
    made = samples.isel(sample=every).transpose("sample", ...).values
    for number, values in enumerate(made):
        label = None if number else "draws"
        ax.plot(*kernel_density(values), color="C0", alpha=0.25, linewidth=0.7, label=label)
    # Black would not show on a dark page.
    ax.plot(*kernel_density(made), color="C1", linestyle="--", label="draws together")
    ax.plot(*kernel_density(data.values), color="C7", label="data")
    ax.set_ylim(bottom=0)
    ax.set_yticks([])
    ax.legend(fontsize="small")
    ax.set_xlabel(in_figure(site))
    return ax


def _entries(ax: Axes, site: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(f"entry of {in_figure(site)}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _pair(
    idata: az.InferenceData, site: str | None, group: str
) -> tuple[str, xr.DataArray, xr.DataArray]:
    if group not in GROUPS:
        raise ValueError(unknown("group", group, GROUPS))
    name = GROUPS[group]
    if name not in groups_of(idata):
        raise ValueError(f"this posterior has no group {name}")
    sites = [s for s in data_sites(idata) if s in idata[name]]
    if not sites:
        raise ValueError(f"{name} has no data site of numbers")
    site = sites[0] if site is None else site
    if site not in sites:
        raise ValueError(unknown("data site", site, sites))
    return site, idata.observed_data[site], idata[name][site]
