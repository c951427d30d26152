"""The part of a report that shows what modalities tell of each other; empty where it has none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import xarray as xr

from ppl_models.html_tables import table
from ppl_models.inference.metrics import modality_scores
from ppl_models.pages.html import paragraph
from ppl_models.pages.sections import Fit

COLUMNS = {
    "canonical": (
        "cosine",
        "Cosine: of both codes of a row in the space of their canonical correlations, found on "
        "every second row and taken of the others; 1 where both say the same, 0 where they say "
        "nothing of each other.",
    ),
    "relatedness": (
        "relatedness",
        "Relatedness: the probability that codes of two rows of one class are nearer, by the "
        "Wasserstein distance, than those of two classes; 0.5 where nearness says nothing.",
    ),
    "coherence": (
        "coherence",
        "Coherence: the share of rows whose class the oracle sees in the other modality, "
        "generated from a draw of the code.",
    ),
    "accuracy": (
        "classifier",
        "Classifier: the share of rows whose class a linear classifier tells from the code given "
        "the first alone, fitted on every second row and asked of the others.",
    ),
}


def modalities(fit: Fit) -> Iterator[str]:
    """How codes given one modality alone and those given another go together."""
    scores = modality_scores(fit.idata)
    if not scores.data_vars:
        return
    names = [str(name) for name in scores.modality.values]
    kept = [name for name in COLUMNS if name in scores]
    lines = []
    for given in names:
        for other in names:
            if given != other:
                at = {"modality": given, "other": other}
                figures = (scores[name].sel(_along(scores[name], at)) for name in kept)
                lines.append((given, other, *(_figure(float(value)) for value in figures)))
    yield paragraph(
        "Codes of rows given the first modality alone, beside those given the other one alone. "
        "What is good depends on the purpose: the verdict does not lean on these."
    )
    yield table(("given", "other", *(COLUMNS[name][0] for name in kept)), lines)
    for name in kept:
        yield paragraph(COLUMNS[name][1])


def _along(values: xr.DataArray, at: Mapping[str, str]) -> dict[str, str]:
    return {name: place for name, place in at.items() if name in values.dims}


def _figure(value: float) -> float | str:
    return value if math.isfinite(value) else "unknown"
