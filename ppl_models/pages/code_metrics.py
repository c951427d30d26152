"""The part of a report that shows metrics of codes; empty where none were taken."""

from __future__ import annotations

import math
from collections.abc import Iterator

import xarray as xr

from ppl_models.html_tables import table
from ppl_models.inference import plots
from ppl_models.inference.metrics.disentanglement.results import CODE, FACTOR
from ppl_models.inference.metrics.disentanglement.suite import GROUP, numbers
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.pages.html import drawing, figure, figures, paragraph
from ppl_models.pages.sections import Fit

MATRICES = {
    "mutual_information": "Mutual information of binned codes and factors, in nats",
    "dci_importance": "Importance of codes for the boosted trees of each factor; columns sum to 1",
    "irs_matrix": "IRS: 1 where nothing but the factor moves the code",
}


def metrics(fit: Fit) -> Iterator[str]:
    """Numbers and matrices of the group ``metrics``."""
    scores = groups_of(fit.idata).get(GROUP, xr.Dataset())
    found = numbers(scores)
    if not found:
        return
    told = ", ".join(
        f"{name.replace('_', ' ')} {scores.attrs[name]}"
        for name in ("data", "representation", "nuisance", "rows", "test_rows")
        if name in scores.attrs
    )
    yield paragraph(
        f"Of codes and factors ({told}). What is good depends on the purpose: the verdict does "
        "not lean on these."
    )
    yield table(
        ("metric", "value"),
        [(n.replace("_", " "), v if math.isfinite(v) else "unknown") for n, v in found.items()],
    )
    if excluded := scores.attrs.get("excluded_factors"):
        yield paragraph(f"Left out, being of one value: {excluded}.")
    drawn = []
    for name, caption in MATRICES.items():
        if name in scores and set(scores[name].dims) == {CODE, FACTOR}:
            with drawing(4.4, 3.4) as canvas:
                plots.code_matrix(scores, name, ax=canvas.subplots())
            drawn.append(figure(canvas, f"{caption}."))
    yield figures(*drawn)
