"""What a run says of itself: where its training stands, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_models import html_tables
from ppl_models.printable import printable

if TYPE_CHECKING:
    from ppl_models.inference.training.run import Run

LONGEST = 100  # letters of a line


def facts(run: Run) -> dict[str, str]:
    """What is known of a run, in words; what is not yet known is left out."""
    history, validation = run.history, run.validation
    found = {"objective": run.objective}
    if history["step"]:
        found["steps"] = f"{run.taken:,} of {run.planned:,}, {history['seconds'][-1]:.1f} seconds"
        found["loss"] = f"{history['loss'][-1]:.5g} nats a row"
    if validation["loss"]:
        found["validation loss"] = (
            f"{validation['loss'][-1]:.5g}, least {min(validation['loss']):.5g}"
        )
    # Not run.data, which may be read from a file when it is asked for.
    data = vars(run)["data"]
    if data is not None:
        rows = getattr(data, "train", data)
        found["data"] = f"{data.name}, {len(rows):,} rows trained on"
    return {**found, "seed": str(run.seed)}


def text(run: Run) -> str:
    """At most ten lines."""
    told = {name: " ".join(printable(value, "\n\t").split()) for name, value in facts(run).items()}
    lines = (f"  {name:16}{value}" for name, value in told.items())
    cut = (line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…" for line in lines)
    return "\n".join([f"Run of {printable(run.pair.source)}, {run.status}", *cut])


def html(run: Run) -> str:
    """The same for a notebook."""
    title = f"Run of {run.pair.source}, {run.status}"
    return html_tables.notebook(title, html_tables.facts(facts(run)))
