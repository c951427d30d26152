"""What rows would have been with lower or higher causes, all chance being what it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import arviz as az
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.counterfactuals import Graph, counterfactual
from ppl_models.inference.plots.fit_checks import axes
from ppl_models.inference.plots.samples import data_sites, image_shape, images, mosaic
from ppl_models.inference.posterior.groups import Array, groups_of
from ppl_models.inference.posterior.known_rows import covariates_in
from ppl_models.inference.posterior.rows import undisturbed
from ppl_models.pair import Pair
from ppl_models.printable import in_figure
from ppl_models.sample_sites import base_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDS = (0.1, 0.9)  # of the rows: what a cause is set to
MOST = 10  # classes that a cause is set to


@dataclass(frozen=True)
class World:
    """Rows with a cause set.

    Attributes:
        cause: Its name.
        words: What it is set to, in words.
        values: Sites of the data, ``(B, ...)``.
    """

    cause: str
    words: str
    values: dict[str, Array]


def counterfactuals(
    pair: Pair,
    idata: az.InferenceData,
    site: str | None = None,
    rows: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images of rows, and what they would have been had each cause had other values.

    A line for each row, which stands first; then columns for each cause that the pair's card
    names, at the values that a tenth of the rows are below and above; of a class, at each.

    Args:
        pair: The fitted pair.
        idata: Its posterior.
        site: The site of the images; the first that has some by default.
        rows: Positions of the rows; the first eight by default.
        ax: Axes to draw into.

    Raises:
        ValueError: If there are no images, no causes, or a site would move whose noise cannot be
            told.
    """
    known = [name for name in data_sites(idata) if image_shape(idata, name) is not None]
    site = known[0] if site is None and known else site
    if site not in known:
        raise ValueError(unknown("site of images", site, known))
    count = idata.observed_data.sizes["datum"]
    chosen = list(range(min(8, count))) if rows is None else list(rows)
    worlds = list(caused(pair, idata, chosen))
    columns = [idata.observed_data[site].values[chosen], *(w.values[site] for w in worlds)]
    whole: Array = np.stack([np.asarray(c).reshape(len(chosen), -1) for c in columns], 1)
    shape = image_shape(idata, site)
    assert shape is not None
    ax = axes(ax)
    pictures = images(whole.reshape(-1, whole.shape[-1]), shape)
    down, across = mosaic(ax, pictures, len(columns))
    heads = ["row", *(f"{in_figure(w.cause)}\n{in_figure(w.words)}" for w in worlds)]
    ax.set_xticks(across, heads)
    ax.set_yticks(down, [in_figure(n) for n in idata.observed_data["datum"].values[chosen]])
    ax.tick_params(length=0)
    return ax


def effects(
    pair: Pair, idata: az.InferenceData, rows: Sequence[int]
) -> list[tuple[str, str, dict[str, float]]]:
    """By cause and value, the mean change of sites of the data; of vectors, its root mean square.

    Args:
        pair: The fitted pair.
        idata: Its posterior.
        rows: Positions of the rows.

    Raises:
        ValueError: As :func:`counterfactuals`.
    """
    found = []
    for world in caused(pair, idata, rows):
        changes = {}
        for name, value in world.values.items():
            change = value - idata.observed_data[name].values[list(rows)]
            number = change[0].size == 1
            mean = np.nanmean(change) if number else np.sqrt(np.nanmean(change**2))
            changes[name] = float(mean)
        found.append((world.cause, world.words, changes))
    return found


def caused(pair: Pair, idata: az.InferenceData, rows: Sequence[int]) -> Iterator[World]:
    """Rows of an export with each cause set to each of its values, by the same draws.

    Args:
        pair: The fitted pair.
        idata: Its posterior.
        rows: Positions of the rows.

    Raises:
        ValueError: If the pair's card names no causes, or a site would move whose noise cannot be
            told.
    """
    if not pair.card.causes:
        raise ValueError(f"{pair.card.name} names no causes, expected card.causes")
    with undisturbed(pair, 0):
        batch = _batch(pair, idata, list(rows))
        graph = Graph.of(pair, batch)
    for cause in pair.card.causes:
        for words, value in _values(idata, cause, graph.sites[cause]):
            with undisturbed(pair, 0):
                made = counterfactual(pair, batch, {cause: value}, graph=graph)
            kept = {n: made[n].cpu().numpy() for n in data_sites(idata) if n in made}
            yield World(cause, words, kept)


def _batch(pair: Pair, idata: az.InferenceData, rows: list[int]) -> Batch:
    """Rows of an export as they were given."""
    constant, like = groups_of(idata).get("constant_data", xr.Dataset()), pair.like()
    seen: dict[str, Any] = {
        str(name): values.transpose("datum", ...).values[rows]
        for name, values in idata.observed_data.data_vars.items()
    }
    found = {
        n: torch.as_tensor(v) for n, v in (seen | covariates_in(pair, constant, rows)).items()
    }
    numbers = torch.as_tensor(idata.observed_data["datum"].values[rows])
    batch = Batch(found, numbers).to(like.device, like.dtype)
    return batch.replace({n: v.nan_to_num() for n, v in batch.items()})


def _values(idata: az.InferenceData, cause: str, node: Any) -> Iterator[tuple[str, Tensor]]:
    """What a cause is set to, with words."""
    if base_of(node["fn"]).has_enumerate_support:
        support = node["fn"].enumerate_support(expand=False)
        support = support.reshape(-1, *node["fn"].event_shape)[:MOST]
        known = groups_of(idata).get("variational", xr.Dataset())
        names = known.get(f"{cause}_class", np.arange(len(support)))
        for name, value in zip(np.asarray(names), support, strict=False):
            yield str(name), value
        return
    group = "observed_data" if cause in idata.observed_data else "posterior"
    values = groups_of(idata)[group][cause].transpose("datum", ...).values
    every = values.reshape(-1, *node["fn"].event_shape)
    for share in ENDS:
        value = np.quantile(every, share, axis=0)
        words = f"{value.item():.3g}" if value.size == 1 else f"{100 * share:g} %"
        yield words, torch.as_tensor(value)
