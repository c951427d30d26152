"""Plots of training, of label probabilities and of what the posterior's diagnostics say."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import arviz as az
import numpy as np
import xarray as xr
from scipy import stats

from ppl_models.inference.diagnostics import row_scores
from ppl_models.inference.objectives.loss_parts import BOUND, COLUMNS, ESTIMATE, RECONSTRUCTION
from ppl_models.inference.plots.kernel_density import kernel_density
from ppl_models.inference.posterior.groups import Array, groups_of
from ppl_models.inference.posterior.importance_weights import khat_threshold
from ppl_models.printable import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ppl_models.inference.training.run import Run

# What parts of a loss that are the size of the loss are called, or begin with.
BOUNDS = (BOUND, ESTIMATE, f"weighted_{BOUND}", f"weighted_{ESTIMATE}", RECONSTRUCTION)
TEXT = 9  # points: titles of small axes


def axes(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    made: Axes = plt.subplots(layout="constrained")[1]
    return made


def training_curve(
    source: Run | az.InferenceData, stage: int | None = None, ax: Axes | None = None
) -> Axes:
    """Training loss against steps, a line per chain, and the validation loss if there is one.

    Each part of the loss has a thin line: those of the bound and of the reconstruction in it on
    the axes of the loss, the others, which are smaller, on axes of their own at the right, and so
    have the losses of players, which are no part of it. The first tenth of the points may lie
    above the axes: the early fall would hide the rest.

    Args:
        source: A run, or a posterior with the group ``training``.
        stage: Of one stage only, from 0; all by default, with a line where one ends.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no training curve, or no such stage.
    """
    step, curves, stages = _history(source)
    losses = curves.pop("loss")
    if stage is not None and not (stages == stage).any():
        raise ValueError(f"stage is {stage}, expected one of {sorted(set(stages.tolist()))}")
    chosen = np.full(len(step), True) if stage is None else stages == stage
    ax = axes(ax)
    for loss in losses:
        there = chosen & ~np.isnan(loss)  # chains may have taken other numbers of steps
        ax.plot(step[there], loss[there], label="training", linewidth=1)
    if stage is None:
        for place in np.flatnonzero(np.diff(stages)):
            ax.axvline(step[place], color="grey", linestyle=":")
    checked = getattr(source, "validation", {"step": []})
    if checked["step"]:
        ax.plot(checked["step"], checked["loss"], label="validation")
    parts = {name: v for name, v in curves.items() if np.isfinite(v[:, chosen]).any()}
    bounds = {name: v for name, v in parts.items() if name.startswith(BOUNDS)}
    others = {name: v for name, v in parts.items() if name not in bounds}
    if others:  # a bound alone is the loss
        _draw_parts(ax, step, bounds, chosen, 2)
    _frame(ax, [losses, *(bounds.values() if others else ())], chosen)
    ax.set_xlabel("step")
    ax.set_ylabel("loss, nats per row")
    told = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if others:
        right = ax.twinx()
        _draw_parts(right, step, others, chosen, 2 + len(bounds))
        _frame(right, list(others.values()), chosen)
        right.set_ylabel("smaller parts, nats per row" if bounds else "parts")
        told |= dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
        ax.set_zorder(right.get_zorder() + 1)  # no curve of the right axes crosses the legend
        ax.patch.set_visible(False)
    if len(told) > 1:
        ax.legend(told.values(), told.keys(), fontsize=TEXT - 1)
    return ax


def _draw_parts(ax: Axes, step: Array, parts: dict[str, Array], chosen: Array, first: int) -> None:
    for place, (name, curve) in enumerate(parts.items()):
        for chain in curve:
            there = chosen & ~np.isnan(chain)
            ax.plot(
                step[there], chain[there], "--", label=in_figure(name), linewidth=0.8,
                color=f"C{(first + place) % 10}",
            )  # fmt: skip


def _frame(ax: Axes, curves: list[Array], chosen: Array) -> None:
    """Limits that hold all but the first tenth of the points."""
    lows, tops = [], []
    for curve in curves:
        shown = curve[:, chosen]
        shown = shown[:, np.isfinite(shown).all(0)]
        if shown.shape[1] <= 20:
            return
        lows.append(shown.min())
        tops.append(shown[:, shown.shape[1] // 10 :].max())
    low, top = min(lows), max(tops)
    ax.set_ylim(low - 0.05 * (top - low), top + 0.1 * (top - low) or None)


def stage_numbers(source: Run | az.InferenceData) -> list[int]:
    """Numbers of the stages in a training curve; none where there is no curve."""
    try:
        return sorted({int(stage) for stage in _history(source)[2]})
    except ValueError:
        return []


def _history(source: Run | az.InferenceData) -> tuple[Array, dict[str, Array], Array]:
    """Steps, the loss and its parts ``(chain, step)`` by name, and numbers of stages."""
    if hasattr(source, "history"):
        found = {name: np.asarray(values)[None] for name, values in source.history.items()}
        step = found["step"][0]
    else:
        group = groups_of(source).get("training", xr.Dataset())
        if "loss" not in group:
            raise ValueError("this posterior has no training curve")
        dims = ("chain", "step")
        step = group["step"].values
        found = {
            str(name): group[name].transpose(*dims).values
            for name in group.data_vars
            if set(group[name].dims) == set(dims)
        }
    if not len(step):
        raise ValueError("the training curve has no points")
    stage = np.nanmax(found["stage"], 0) if "stage" in found else np.zeros(len(step))
    curves = {n: v for n, v in found.items() if n not in COLUMNS and v.dtype.kind == "f"}
    return step, {"loss": found["loss"], **curves}, stage


def khat(idata: az.InferenceData, ax: Axes | None = None) -> Axes:
    """k-hat of every row in increasing order, and the threshold for so many draws.

    Rows of constant weights (an exact guide) have no finite k-hat and stand left of the others
    as a gap.

    Args:
        idata: A posterior with the group ``diagnostics``.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no k-hat.
    """
    shapes = row_scores.per_row(idata, "khat")
    if shapes is None:
        raise ValueError("this posterior has no k-hat")
    shapes = np.sort(shapes[~np.isnan(shapes)])
    limit = khat_threshold(int(idata.sample_stats.sizes["draw"]))
    ax = axes(ax)
    kept = np.isfinite(shapes)
    ax.scatter(np.arange(len(shapes)), np.where(kept, shapes, np.nan), s=9, marker="+", color="C0")
    ax.axhline(limit, color="C3", linestyle="--", label=f"threshold {limit:.2f}")
    ax.legend(loc="upper left")
    ax.set_xlabel("rows, by k-hat")
    ax.set_ylabel("k-hat")
    return ax


def confusion(idata: az.InferenceData, site: str | None = None, ax: Axes | None = None) -> Axes:
    """How many rows of each class have which most probable label.

    Args:
        idata: A posterior of rows whose label is known but was not given.
        site: The label; the first by default.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no such label.
    """
    found = row_scores.labels(idata, site)
    size = len(found.classes)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (found.truth, found.predicted), 1)
    ax = axes(ax)
    ax.imshow(np.sqrt(counts), cmap="Blues", vmin=0)
    if size <= 12:
        half = np.sqrt(counts.max()) / 2
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = np.sqrt(count) > half
                color = "white" if dark else "black"
                ax.text(column, row, str(count), ha="center", va="center", color=color, fontsize=7)
    step = -(-size // 30)
    places = range(0, size, step)
    names = [in_figure(found.classes[place]) for place in places]
    long = size > 12 or max(map(len, names)) > 3
    ax.set_xticks(places, names, rotation=90 if long else 0, fontsize=7)
    ax.set_yticks(places, names, fontsize=7)
    ax.set_xlabel("most probable label")
    ax.set_ylabel("label")
    return ax


def reliability(idata: az.InferenceData, site: str | None = None, ax: Axes | None = None) -> Axes:
    """Share of right labels against the probability of the most probable label, in bins.

    Dots have an area in proportion to their rows, bars are 95 % intervals (Jeffreys).

    Args:
        idata: A posterior of rows whose label is known but was not given.
        site: The label; the first by default.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no such label.
    """
    found = row_scores.labels(idata, site)
    mean, right, count = row_scores.reliability(found)
    ax = axes(ax)
    ax.plot([0, 1], [0, 1], color="grey", linestyle=":")
    wrong = (1 - right) * count
    ends = [stats.beta.ppf(q, right * count + 0.5, wrong + 0.5) for q in (0.025, 0.975)]
    ax.vlines(mean, *ends, color="C0", linewidth=1)
    ax.scatter(mean, right, s=10 + 200 * count / count.sum(), color="C0", clip_on=False)
    low = max(-0.02, min(float(mean.min()), float(ends[0].min())) - 0.05)
    ax.set_xlim(low, 1.02)
    ax.set_ylim(low, 1.02)
    ax.set_xlabel("probability of the most probable label")
    ax.set_ylabel("share that is right")
    return ax


def ranks(found: xr.Dataset, ax: Axes | None = None) -> Axes:
    """How far the ranks of true values among the guide's draws are from uniform.

    A curve for each quantity: the share of ranks below a point, less that point. The grey band
    is where all curves of an exact guide stay; those that leave it are named.

    Args:
        found: From :func:`ppl_models.inference.diagnostics.calibration.sbc`.
        ax: Axes to draw into.
    """
    ax = axes(ax)
    point = found["point"].values
    ax.fill_between(point, found["low"] - point, found["high"] - point, color="grey", alpha=0.25)
    for number, curve in enumerate(found["ecdf"].transpose("quantity", "point")):
        passed = bool(found["passed"].values[number])
        ax.plot(
            point,
            curve.values - point,
            color="C0" if passed else f"C{1 + number % 9}",
            alpha=0.6 if passed else 1,
            linewidth=1 if passed else 1.5,
            label=None if passed else in_figure(curve["quantity"].item()),
        )
    failed = int((~found["passed"].values).sum())
    if failed:
        ax.legend(fontsize="x-small", ncols=1 + failed // 6)
    ax.axhline(0, color="grey", linewidth=0.5)
    ax.set_xlabel("rank of the true value among the guide's draws")
    ax.set_ylabel("share below, less uniform")
    return ax


def scalars(idata: az.InferenceData, count: int = 4) -> xr.Dataset:
    """Single numbers of the posterior with the largest R-hat, or least ESS for one chain.

    Args:
        idata: By MCMC.
        count: How many.

    Returns:
        A variable over ``(chain, draw)`` for each, named ``z[datum 3, z_dim 0]``, with ``rhat``
        and ``ess`` as its attributes; the worst first.
    """
    posterior = groups_of(idata)["posterior"]
    names = [
        str(n)
        for n, v in posterior.data_vars.items()
        if v.dtype.kind == "f" and {"chain", "draw"} <= set(v.dims) and v.size
    ]
    names = [n for n in names if n.removesuffix("_probs") not in set(names) - {n}]
    if not names:
        return xr.Dataset()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what never moves has no R-hat
        rhat, ess = az.rhat(posterior[names]), az.ess(posterior[names])
    several = posterior.sizes["chain"] > 1
    entries: list[tuple[float, str, dict[str, int], float, float]] = []
    for name in names:
        for place in np.ndindex(ess[name].shape):
            at = dict(zip(map(str, ess[name].dims), place, strict=True))
            r, e = float(rhat[name].isel(at)), float(ess[name].isel(at))
            entries.append((-r if several else e, name, at, r, e))
    entries.sort(key=lambda entry: np.nan_to_num(entry[0], nan=np.inf))
    found: dict[str, Any] = {}
    for _, name, at, r, e in entries[:count]:
        draws = posterior[name].isel(at)
        where = ", ".join(f"{dim} {draws[dim].item()}" for dim in at)
        found[f"{name}[{where}]" if where else name] = (
            ("chain", "draw"), draws.transpose("chain", "draw").values, {"rhat": r, "ess": e},
        )  # fmt: skip
    return xr.Dataset(found)


def trace(idata: az.InferenceData, count: int = 4, ax: Array | None = None) -> Array:
    """Densities and traces of the numbers that mixed worst, a line for each chain.

    Args:
        idata: By MCMC.
        count: How many numbers.
        ax: Axes ``(count, 2)`` to draw into, fewer where there are fewer numbers.

    Returns:
        Axes ``(count, 2)``.

    Raises:
        ValueError: If the axes given are of another shape.
    """
    chosen = scalars(idata, count)
    rows = len(chosen.data_vars)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(rows, 2, squeeze=False, layout="constrained", figsize=(8, 2 * rows))[1]
    if np.shape(ax) != (rows, 2):
        raise ValueError(f"ax has shape {np.shape(ax)}, expected {(rows, 2)}")
    for (density, trace), (name, values) in zip(ax, chosen.data_vars.items(), strict=True):
        for draws in values.values:
            density.plot(*kernel_density(draws), linewidth=1)
            trace.plot(np.arange(len(draws)), draws, linewidth=1, alpha=0.6)
        density.set_ylim(bottom=0)
        density.set_yticks([])
        for one in (density, trace):
            one.set_title(in_figure(name), fontsize=TEXT)
            one.tick_params(labelsize=TEXT - 1)
    return ax
