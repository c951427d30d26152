"""Grey levels as numbers on the whole line, as flows want them (Dinh et al. 2017, 1605.08803)."""

from __future__ import annotations

import torch

from ppl_models.batch import Batch
from ppl_models.parts.scm import Between

LEVELS = 256
LEAST = 0.05  # what black is of the logistic function; white is 1


def logit_pixels() -> Between:
    """The transform from the line to pixels; 0 to 1, of 256 levels, which reach a level higher.

    Level k of 256, dequantised to k + e with e in (0, 1), has the logit of 0.05 + 0.95 (k + e) /
    256. Images hold k / 255, so that its own logit is finite, too.
    """
    white = LEVELS / (LEVELS - 1)
    return Between(-white * LEAST / (1 - LEAST), white)


def dequantised(batch: Batch) -> Batch:
    """The grey levels of x spread evenly over the step to the next, as ``Stage(prepare=)``."""
    x = batch["x"]
    return batch.replace({**batch, "x": x + torch.rand_like(x) / (LEVELS - 1)})
