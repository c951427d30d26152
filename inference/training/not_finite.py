"""What was not finite in a step: the site and the row."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ppl_models.batch import Batch
from ppl_models.sample_sites import is_plate


class NotFinite(FloatingPointError):
    """A loss or weight that is NaN or infinite, with the site and row it came from."""


def explain(pair: nn.Module, step: int, run_again: Any, batches: tuple[Batch, ...]) -> NotFinite:
    """Find the first site and row whose log density is not finite.

    Args:
        pair: The pair in training.
        step: The step that failed.
        run_again: Called with a batch, repeats its evaluation with the same random numbers and
            returns traces in the order they ran.
        batches: The batches of the step.

    Returns:
        The error to raise.
    """
    for name, parameter in pair.named_parameters():
        if not bool(parameter.isfinite().all()):
            return NotFinite(
                f"step {step}: parameter {name!r} is no longer finite; try a smaller learning rate"
            )
    for batch in batches:
        for trace in run_again(batch):
            for name, site in trace.nodes.items():
                if site["type"] != "sample" or is_plate(site):
                    continue
                log_prob = site["fn"].log_prob(site["value"])
                bad = ~log_prob.isfinite()
                if bool(bad.any()):
                    place = int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])
                    row = int(batch.rows[place]) if bad.shape[-1] == batch.count else place
                    value = float(log_prob[..., place].reshape(-1)[0])
                    return NotFinite(
                        f"step {step}: log density of site {name!r} is "
                        f"{'nan' if math.isnan(value) else 'not finite'} at row {row}"
                    )
    return NotFinite(f"step {step}: the loss is not finite, though every site's density is")
