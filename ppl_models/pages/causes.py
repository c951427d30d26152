"""The part of a report that shows what a pair's causes do; empty where its card names none."""

from __future__ import annotations

from collections.abc import Iterator

from ppl_models.html_tables import table
from ppl_models.inference import plots
from ppl_models.inference.plots.caused_worlds import ENDS, effects
from ppl_models.inference.plots.samples import data_sites, image_shape
from ppl_models.pages.html import drawing, figure, figures, paragraph
from ppl_models.pages.sections import Fit

ROWS = 200  # whose mean changes are told


def causes(fit: Fit) -> Iterator[str]:
    """Rows as they would have been had each cause been low or high."""
    if fit.run is None or not fit.run.pair.card.causes:
        return
    pair, count = fit.run.pair, int(fit.idata.observed_data.sizes["datum"])
    few = range(min(ROWS, count))
    try:
        found = effects(pair, fit.idata, few)
    except ValueError as error:
        yield paragraph(f"Counterfactuals are not shown: {error}.")
        return
    low, high = (f"{100 * share:g} %" for share in ENDS)
    yield paragraph(
        f"Counterfactuals: every cause is set to what {low} and {high} of the rows are below (a "
        "label to each of its classes), and the rest follows by the rows' own noise. They hang on "
        "the mechanisms, which the data alone cannot tell from others that fit as well."
    )
    drawn = []
    for site in data_sites(fit.idata):
        if image_shape(fit.idata, site) is not None:
            columns = 1 + len(found)
            with drawing(1.2 + 0.55 * columns, 0.8 + 0.55 * min(8, count)) as canvas:
                plots.counterfactuals(pair, fit.idata, site, ax=canvas.subplots())
            drawn.append(
                figure(canvas, f"Rows of {site}, and what they would have been.", columns > 10)
            )
    yield figures(*drawn)
    names = list(found[0][2])
    lines = [(cause, words, *(changes[n] for n in names)) for cause, words, changes in found]
    yield table(("cause", "set to", *(f"change of {name}" for name in names)), lines)
    yield paragraph(
        f"Mean changes over {len(few)} rows; of vectors and images, root mean squares."
    )
