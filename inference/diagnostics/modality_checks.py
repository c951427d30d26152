"""What is told of rows of several modalities, and not judged: what is good depends on the purpose.

The figures are those of :func:`ppl_models.inference.metrics.by_modality.modality_scores`, the
least of any two modalities; there is no limit, and no verdict leans on them.
"""

from __future__ import annotations

from collections.abc import Iterator

import arviz as az
import xarray as xr

from ppl_models.inference.diagnostics.finding import Finding
from ppl_models.inference.metrics.by_modality import OTHER, modality_scores
from ppl_models.inference.posterior.told_alone import DIM

FACTS = {
    "canonical": "codes given {0} alone and given {1} alone have a cosine of {2:.2f} in the space "
    "of their canonical correlations (1 where both say the same, 0 where nothing of each other)",
    "relatedness": "codes given {0} and given {1} of rows of one class are nearer than of two "
    "with probability {2:.2f} (0.5 where they know nothing of each other's class)",
    "accuracy": "a linear classifier tells the class of {2:.0%} of rows from codes given {0} "
    "alone",
    "coherence": "the oracle sees the row's class in {2:.0%} of {1} generated from {0} alone",
}


def modality_checks(idata: az.InferenceData | xr.DataTree) -> Iterator[Finding]:
    """A line for each measure, of the two modalities that know the least of each other.

    Args:
        idata: The posterior; nothing is told where it has no group ``modalities``.
    """
    scores = modality_scores(idata)
    for name, fact in FACTS.items():
        if name not in scores:
            continue
        values = scores[name]
        if OTHER in values.dims:  # what a modality tells of itself is no matter here
            values = values.where(values[DIM] != values[OTHER])
        if not values.notnull().any():
            continue
        place = values.argmin(...)
        figure = float(values[place])
        ends = [str(values[dim].values[place[dim]]) for dim in values.dims]
        told = fact.format(*ends, *[""] * (2 - len(ends)), figure)
        yield Finding(name, True, told, "", " and ".join(ends), figure, unjudged=True)
