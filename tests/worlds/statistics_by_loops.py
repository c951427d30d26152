"""Statistics of a batch, with loops over its rows."""

from __future__ import annotations

import math

import numpy as np


def by_hand(u, v):
    """With loops over pairs."""
    n = len(u)
    a, b = (
        np.array([[math.dist(z[k], z[m]) for m in range(n)] for k in range(n)]) for z in (u, v)
    )
    a, b = (d - d.mean(0) - d.mean(1)[:, None] + d.mean() for d in (a, b))
    return math.sqrt((a * b).mean()) / math.sqrt(
        math.sqrt((a * a).mean()) * math.sqrt((b * b).mean())
    )
