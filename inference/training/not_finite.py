"""What was not finite in a step: the site and the row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.sample_sites import is_plate


class NotFinite(FloatingPointError):
    """A loss or weight that is NaN or infinite, with the site and row it came from."""


def not_finite(parameters: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first parameter that has a number which is NaN or infinite."""
    held = list(parameters)
    # A sum is finite only if every number is, and takes a sixteenth of the time of asking each.
    # One answer of the device for all, as each is waited for.
    if not held or bool(torch.stack([p.detach().sum() for _, p in held]).sum().isfinite()):
        return None
    # Sums of finite numbers may overflow: then none is found here.
    return next((name for name, p in held if not bool(p.isfinite().all())), None)


def exploded(name: str, step: int) -> NotFinite:
    """The error for a parameter that is not finite after so many steps."""
    return NotFinite(
        f"step {step}: parameter {name!r} is no longer finite; try a smaller learning rate"
    )


def explain(pair: nn.Module, step: int, run_again: Any, batches: tuple[Batch, ...]) -> NotFinite:
    """Find the first site and row whose log density is not finite.

    Args:
        pair: The pair in training.
        step: The step that failed, counted from 1.
        run_again: Called with a batch, repeats its evaluation with the same random numbers and
            returns traces in the order they ran.
        batches: The batches of the step.

    Returns:
        The error to raise.
    """
    if (name := not_finite(pair.named_parameters())) is not None:
        return exploded(name, step)
    for batch in batches:
        for trace in run_again(batch):
            for name, site in trace.nodes.items():
                if site["type"] != "sample" or is_plate(site):
                    continue
                log_prob = site["fn"].log_prob(site["value"])
                bad = ~log_prob.isfinite()
                if isinstance(site["mask"], Tensor):
                    bad = bad & site["mask"]
                if bool(bad.any()):
                    place = int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0])
                    row = int(batch.rows[place]) if bad.shape[-1] == batch.count else place
                    value = float(log_prob[..., place].reshape(-1)[0])
                    return NotFinite(
                        f"step {step}: log density of site {name!r} is "
                        f"{'nan' if math.isnan(value) else 'not finite'} at row {row}"
                    )
    return NotFinite(f"step {step}: the loss is not finite, though every site's density is")
