"""Plots of a run and its posterior, each into axes of yours or of its own, which it returns."""

from ppl_models.inference.plots.checks import (
    confusion,
    khat,
    ranks,
    reliability,
    trace,
    training_curve,
)
from ppl_models.inference.plots.samples import density, predictive, reconstructions
from ppl_models.inference.plots.traversals import traversal

__all__ = [
    "confusion",
    "density",
    "khat",
    "predictive",
    "ranks",
    "reconstructions",
    "reliability",
    "trace",
    "training_curve",
    "traversal",
]
