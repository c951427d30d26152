"""Random generators that depend on nothing but what they are asked for."""

from __future__ import annotations

import numpy as np
import torch

from ppl_models.config import check_seed

MASK, SPLIT, ORDER, PROCESS, DRAW, TURN, START = range(
    7
)  # purposes: equal seeds must not give related draws


def generator(seed: int, *key: int) -> torch.Generator:
    """A CPU generator for a seed and a key; the global random state is not touched.

    Args:
        seed: Seed, 0 to 2^63 - 1.
        key: Numbers that tell draws of one seed apart, at least 0.

    Raises:
        ValueError: If the seed is outside of that.
    """
    (state,) = _sequence(seed, *key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


def numpy_generator(seed: int, *key: int) -> np.random.Generator:
    """The same for numpy; related to no :func:`generator` of that seed and key.

    Args:
        seed: Seed, 0 to 2^63 - 1.
        key: Numbers that tell draws of one seed apart, at least 0.

    Raises:
        ValueError: If the seed is outside of that.
    """
    return np.random.default_rng(_sequence(seed, DRAW, *key))


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    # It mixes: neighbouring seeds and keys give unrelated streams.
    return np.random.SeedSequence((check_seed(seed, derived=True), *key))
