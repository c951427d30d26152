"""Plots of a run and its posterior, each into axes of yours or of its own, which it returns."""

from typing import TYPE_CHECKING

from ppl_models.faces import lazy

if TYPE_CHECKING:
    from ppl_models.inference.plots.caused_worlds import counterfactuals as counterfactuals
    from ppl_models.inference.plots.code_matrices import code_matrix as code_matrix
    from ppl_models.inference.plots.fit_checks import (
        confusion as confusion,
        khat as khat,
        ranks as ranks,
        reliability as reliability,
        trace as trace,
        training_curve as training_curve,
    )
    from ppl_models.inference.plots.influence_images import influence_tops as influence_tops
    from ppl_models.inference.plots.perceived_curves import (
        perceived_distances as perceived_distances,
    )
    from ppl_models.inference.plots.samples import (
        density as density,
        predictive as predictive,
        reconstructions as reconstructions,
    )
    from ppl_models.inference.plots.traversals import traversal as traversal

_HOMES = {
    "code_matrix": "code_matrices",
    "confusion": "fit_checks",
    "counterfactuals": "caused_worlds",
    "density": "samples",
    "influence_tops": "influence_images",
    "khat": "fit_checks",
    "perceived_distances": "perceived_curves",
    "predictive": "samples",
    "ranks": "fit_checks",
    "reconstructions": "samples",
    "reliability": "fit_checks",
    "trace": "fit_checks",
    "training_curve": "fit_checks",
    "traversal": "traversals",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy(__name__, _HOMES)
