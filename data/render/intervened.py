"""Sequences of states in which single variables are set by hand, as rows of two frames.

A row is a frame and the one after it, ``x`` and ``x_next``, with which variables were set on the
way from the first to the second, ``targets``. True factors are those of ``x``. Training and
validation rows are windows of sequences, which never reach over the end of one. In test rows the
first frame is a state of its own, drawn apart from all others, so that what a code tells of a
factor there it does not tell by their common past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_models.config import at_least, check_seed, whole
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

WARM = 50  # steps of a sequence before its first row
ROLES = {"x": "covariate", "targets": "covariate"}

Start = Callable[[int, np.random.Generator], Array]
Step = Callable[[Array, Array, np.random.Generator], Array]


def chosen_targets(rows: int, kinds: int, share: float, draw: np.random.Generator) -> Array:
    """Which variable is set in each row ``(rows,)``: its number from 0 on, or -1 for none.

    None with probability ``(1 - share) ** kinds``, else any with the same.

    Args:
        rows: Number of rows.
        kinds: Number of variables K that can be set.
        share: Of the rows in which a variable would be set, were all set apart from each other.
        draw: Source of the choice.
    """
    which = draw.integers(kinds, size=rows)
    none = draw.random(rows) < (1 - share) ** kinds
    return np.where(none, -1, which)


def sequences(
    start: Start,
    step: Step,
    count: int,
    kinds: int,
    share: float,
    rows: int,
    draw: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """So many rows of windows of two states, sequence by sequence.

    Args:
        start: First states ``(n, S)``.
        step: The states after ``(n, S)`` ones, under targets ``(n,)``.
        count: Number of sequences, all of one length.
        kinds: Number of variables K that can be set.
        share: As of :func:`chosen_targets`.
        rows: Number of rows; what the last sequences have beyond them is left out.
        draw: Source of all.

    Returns:
        States before and after ``(rows, S)``, and targets ``(rows,)``.
    """
    state, found = start(count, draw), []
    for place in range(WARM + -(-rows // count)):
        target = chosen_targets(count, kinds, share, draw)
        after = step(state, target, draw)
        if place >= WARM:
            found.append((state, after, target))
        state = after
    before, after, target = (np.stack(part, 1) for part in zip(*found, strict=True))
    flat = [part.reshape(-1, *part.shape[2:])[:rows] for part in (before, after, target)]
    return flat[0], flat[1], flat[2]


def alone(
    independent: Start, step: Step, kinds: int, share: float, rows: int, draw: np.random.Generator
) -> tuple[Array, Array, Array]:
    """So many states that are independent of each other, and one step from each.

    Args:
        independent: States ``(n, S)`` whose variables are independent.
        step: As of :func:`sequences`.
        kinds: As of :func:`sequences`.
        share: As of :func:`chosen_targets`.
        rows: Number of rows.
        draw: Source of all.
    """
    before = independent(rows, draw)
    target = chosen_targets(rows, kinds, share, draw)
    return before, step(before, target, draw), target


def dataset(
    name: str,
    start: Start,
    independent: Start,
    step: Step,
    seen: Callable[[Array], Array],
    factors: Callable[[Array], Mapping[str, Array]],
    kinds: int,
    options: Mapping[str, Any],
    seed: int,
) -> Dataset:
    """Rows of two frames: training and validation from sequences, test rows independent.

    Args:
        name: Name of the set.
        start: As of :func:`sequences`.
        independent: As of :func:`alone`.
        step: As of :func:`sequences`.
        seen: What is seen of states.
        factors: What is to be known of states, by site.
        kinds: Number of variables K that can be set.
        options: Of the loader; among them train, validation, test, intervened and sequences.
        seed: Seed of the rows.

    Raises:
        ValueError: If an option is out of range.
    """
    at_least(**{part: (options[part], 1) for part in ("train", "validation", "test")})
    seed = check_seed(seed)
    count = whole("sequences", options["sequences"], 1)
    share = number("intervened", options["intervened"], 0, 1)
    parts: list[Mapping[str, Array]] = []
    for place, part in enumerate(("train", "validation", "test")):
        draw, rows = numpy_generator(seed, place), options[part]
        if part == "test":
            before, after, target = alone(independent, step, kinds, share, rows, draw)
        else:
            before, after, target = sequences(start, step, count, kinds, share, rows, draw)
        parts.append(
            {
                "x": seen(before),
                "x_next": seen(after),
                "targets": (target[:, None] == np.arange(kinds)).astype(np.float32),
                **factors(before),
            }
        )
    roles = {**ROLES, **dict.fromkeys(factors(before[:1]), "factor")}
    return from_parts(name, parts, options=options, seed=seed, roles=roles)
