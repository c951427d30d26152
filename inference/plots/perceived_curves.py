"""Distances that a loss perceives along each factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ppl_models.inference.metrics.disentanglement.results import FACTOR
from ppl_models.inference.plots.fit_checks import TEXT, axes
from ppl_models.printable import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def perceived_distances(report: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean loss against steps, a line per factor with the rank correlation of the two.

    Args:
        report: Of :func:`ppl_models.inference.metrics.perceived_distances`.
        ax: Axes to draw into.

    Raises:
        ValueError: If it is another report.
    """
    if "distance" not in report or "factor_spearman" not in report:
        raise ValueError(
            f"the report has {sorted(map(str, report.data_vars))}, expected what "
            "metrics.perceived_distances gives"
        )
    ax = axes(ax)
    for name in report[FACTOR].values:
        one = report.sel({FACTOR: name})
        there = np.isfinite(one.distance.values)
        rank = float(one.factor_spearman)
        ax.plot(
            one.steps.values[there],
            one.distance.values[there],
            marker=".",
            label=in_figure(f"{name}, {rank:.2f}"),
        )
    ax.set_ylim(bottom=0)
    ax.set_xlabel("steps of the factor")
    ax.set_ylabel(in_figure(f"perceived distance, {report.attrs['loss']}"))
    ax.set_title(in_figure(f"{report.attrs['data']}: all {float(report.spearman):.2f}"))
    ax.legend(title="rank correlation", fontsize=TEXT - 1, title_fontsize=TEXT - 1)
    return ax
