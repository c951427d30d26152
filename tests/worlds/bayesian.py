"""A small pair with a Bayesian label network."""

from __future__ import annotations

import ppl_models as zoo
from ppl_models.pair import Pair

D, C, L, H = 3, 3, 2, 4  # data, classes, code, hidden units


def small(**settings: object) -> Pair:
    """In float64, its weights far from a point."""
    sizes = {"data_dim": D, "classes": C, "latent": L, "hidden": (H,)}
    options = {"log_variance": -1.0, "likelihood": "normal", **sizes, **settings}
    return zoo.build("bayesian_ssl", **options).double()
