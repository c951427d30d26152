"""Simulated tables as arrays, and shares of their rows."""

from __future__ import annotations

import math


def arrays(table):
    """Values by site, images in their shape."""
    found = {s: v[:].numpy() for s, v in table.sites.items()}
    return {s: v.reshape(-1, *table.shapes.get(s, v.shape[1:])) for s, v in found.items()}


def share_is(found, expected, rows, width=4.0):
    """Whether a share of rows is what is expected, within four standard errors."""
    return abs(found - expected) <= width * math.sqrt(expected * (1 - expected) / rows)
