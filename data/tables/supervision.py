"""What a learner is told, as steps that make one data set of another, and are written down."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.correlations import log_weights
from ppl_models.data.tables.hiding import Kept, keep
from ppl_models.data.tables.pairing import shared_codes, side_by_side, zipped
from ppl_models.data.tables.recipe import digest, plain
from ppl_models.data.tables.seeds import DRAW, generator, numpy_generator
from ppl_models.data.tables.splits import PARTS
from ppl_models.data.tables.table import BY_SITE, Dataset, Table


def supervise(dataset: Dataset, kept: Mapping[str, Kept], seed: int = 0) -> Dataset:
    """Hide labels, factors or whole modalities in training rows.

    Args:
        dataset: The data set.
        kept: In how many training rows a site stays observed, by site: a number, a rate, or
            either by class name; see :func:`ppl_models.data.tables.hiding.keep`.
        seed: Seed of the choice; each site is drawn for itself.

    Raises:
        ValueError: If there is no such site or class, or fewer rows than asked for.
    """
    kept = plain(kept)
    sites = list(dataset.train.sites)
    masks = {
        site: keep(dataset.train, site, wanted, seed + (sites.index(site) if site in sites else 0))
        for site, wanted in kept.items()
    }
    return _record(dataset, supervise, {"kept": kept, "seed": seed}, dataset.train.hide(masks))


def unpair(
    dataset: Dataset,
    modalities: Sequence[str],
    paired: float,
    alone: Sequence[str] | None = None,
    seed: int = 0,
) -> Dataset:
    """Leave a share of the training rows with all modalities, and the rest with one each.

    Args:
        dataset: The data set.
        modalities: Sites, two or more.
        paired: Share of training rows that keep all of them.
        alone: Modalities of which the rest keep one, in turn; all of them if None.
        seed: Seed of the choice.

    Raises:
        ValueError: If there is no such site or the share is not in 0..1.
    """
    if not 0 <= paired <= 1:
        raise ValueError(f"paired is {paired}, expected a share in 0..1")
    table, kept = dataset.train, list(modalities if alone is None else alone)
    for site in modalities:
        if site not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', site, table.sites)}")
    for site in kept:
        if site not in modalities:
            raise ValueError(unknown("modality", site, list(modalities)))
    order = torch.randperm(len(table), generator=generator(seed, DRAW, 0))
    rest = order[round(paired * len(table)) :]
    turn = torch.full((len(table),), -1)
    turn[rest] = torch.arange(len(rest)) % len(kept)
    masks = {
        site: (turn < 0) | (turn == (kept.index(site) if site in kept else len(kept)))
        for site in modalities
    }
    options = {"modalities": list(modalities), "paired": paired, "alone": kept, "seed": seed}
    return _record(dataset, unpair, options, table.hide(masks))


def missing_patterns(dataset: Dataset, shares: Mapping[str, float], seed: int = 0) -> Dataset:
    """Leave shares of the training rows with some of their modalities each.

    A site that some pattern names is hidden in the rows of all others; every other one stays.

    Args:
        dataset: The data set.
        shares: Share of training rows by what they keep, sites with a plus between them:
            ``{"s+t": 0.25, "s": 0.5, "t": 0.25}``; ``""`` keeps none. Shares add up to 1.
        seed: Seed of the choice.

    Raises:
        ValueError: If there is no such site, two patterns are the same, or the shares are none.
    """
    table, total = dataset.train, sum(shares.values())
    if abs(total - 1) > 1e-6 or not all(share >= 0 for share in shares.values()):
        raise ValueError(f"shares are {dict(shares)}, expected shares in 0..1 that add up to 1")
    patterns = [tuple(filter(None, pattern.split("+"))) for pattern in shares]
    sites = list(dict.fromkeys(site for pattern in patterns for site in pattern))
    for site in sites:
        if site not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', site, table.sites)}")
    if len({frozenset(pattern) for pattern in patterns}) < len(patterns):
        raise ValueError(f"shares of {list(shares)} name a pattern twice, expected each once")
    order = torch.randperm(len(table), generator=generator(seed, DRAW, 3))
    # Ends are rounded, not sizes, so that every row has a pattern.
    ends = torch.tensor([*shares.values()], dtype=torch.float64).cumsum(0) / total * len(table)
    place = torch.empty_like(order)
    place[order] = torch.searchsorted(ends.round(), torch.arange(len(table)).double(), right=True)
    masks = {
        site: torch.tensor([site in pattern for pattern in patterns])[place] for site in sites
    }
    options = {"shares": dict(shares), "seed": seed}
    return _record(dataset, missing_patterns, options, table.hide(masks))


def pair_by_class(
    first: Dataset,
    second: Dataset,
    sites: Sequence[str] = ("s", "t"),
    of: Sequence[str] = ("x", "x"),
    label: str = "y",
    classes: Mapping[str, str] | None = None,
    pairs: int | Sequence[int | None] | None = None,
    seed: int = 0,
) -> Dataset:
    """Two labelled sets as two modalities of rows of one class, such as MNIST and SVHN.

    Training rows are paired with training rows, validation rows with validation rows and test
    rows with test rows. Rows whose label is hidden, or whose class the other set lacks, are left
    out.

    Args:
        first: One set.
        second: The other.
        sites: Names of the two modalities.
        of: Which sites they are, of the first set and of the second.
        label: The label site of both; classes keep the names of the first.
        classes: The second's class by the first's, such as ``{"0": "T-shirt"}``; those of one
            name if None.
        pairs: None uses each row once, as often as both sets have its class. A number is that of
            training pairs, three those of all parts: rows of the first set are then used in turn,
            each beside any row of its class.
        seed: Seed of who is paired with whom.

    Raises:
        ValueError: If there is no such site or class, or a part without rows is to have pairs.
    """
    if not (isinstance(second, Dataset) and isinstance(first, Dataset)):
        raise ValueError("expected two data sets (data.remake makes them of a recipe)")
    if len({*sites, label}) != 3 or len(of) != 2:
        raise ValueError(
            f"sites are {tuple(sites)} of {tuple(of)} beside {label!r}, expected two new names "
            "and a site of each set"
        )
    wanted = list(pairs) if isinstance(pairs, Sequence) else [pairs, None, None]
    if len(wanted) != len(PARTS) or any(n is not None and n < 1 for n in wanted):
        raise ValueError(f"pairs is {pairs}, expected a number above 0, three of them, or None")
    made: list[Table] = []
    for place, (part, count) in enumerate(zip(PARTS, wanted, strict=True)):
        tables = (getattr(first, part), getattr(second, part))
        for table, site in zip(tables, of, strict=True):
            if site not in table.sites:
                raise ValueError(f"{table.name}: {unknown('site', site, table.sites)}")
        codes = shared_codes(tables, label, classes)
        known = [(labels >= 0).nonzero()[0] for labels in codes]
        own, other = (labels[rows] for labels, rows in zip(codes, known, strict=True))
        left, right = zipped(own, other, numpy_generator(seed, 4, place), count)
        if count is not None and len(left) < count:
            raise ValueError(
                f"pairs of {part} is {count}, but {tables[0].name} and {tables[1].name} share no "
                "row's class"
            )
        columns = {
            sites[0]: (tables[0], of[0], known[0][left]),
            sites[1]: (tables[1], of[1], known[1][right]),
            label: (tables[0], label, known[0][left]),
        }
        start = sum(map(len, made))
        made.append(
            side_by_side(f"{first.name}+{second.name}/{part}", columns, start, torch.device("cpu"))
        )
    options = {
        "second": second.recipe,
        "sites": list(sites),
        "of": list(of),
        "label": label,
        "classes": None if classes is None else dict(classes),
        "pairs": pairs,
        "seed": seed,
    }
    named = dataclasses.replace(first, name=f"{first.name}+{second.name}", roles={})
    return _record(named, pair_by_class, options, *made)


def correlate(
    dataset: Dataset, pairs: Sequence[Sequence[str]], sigma: float, seed: int = 0
) -> Dataset:
    """Keep training rows such that pairs of label sites are correlated; test rows stay as is.

    A row stays with probability proportional to the product over pairs of
    ``exp(-(a - b)^2 / (2 sigma^2))``, labels scaled to 0..1 (Roth et al. 2023): what stays is
    distributed as by their sampling with weights, but no row comes twice.

    Args:
        dataset: The data set; its training rows have all the labels in question.
        pairs: Names of label sites, two at a time.
        sigma: Width, in units of a label's range.
        seed: Seed of the choice.

    Raises:
        ValueError: If there is no such label site, it is hidden in some row, or sigma is not
            positive.
    """
    table = dataset.train
    scaled = {
        site: (_labels(table, site).double() / max(1, table.sizes[site] - 1)).numpy()
        for pair in pairs
        for site in pair
    }
    weights = torch.from_numpy(log_weights(scaled, pairs, sigma))
    chance = (weights - weights.max()).exp()
    draw = torch.rand(len(table), generator=generator(seed, DRAW, 1), dtype=torch.float64)
    options = {"pairs": [list(pair) for pair in pairs], "sigma": sigma, "seed": seed}
    return _record(dataset, correlate, options, table.rows((draw < chance).nonzero().flatten()))


def weak_pairs(
    dataset: Dataset, factors: Sequence[str], changed: int = 1, seed: int = 0
) -> Dataset:
    """Give each training row a partner that shares all but some of its factors.

    The factors that may differ are drawn per row, then the partner among the rows that agree in
    the others; by chance it may agree in more, and be the row itself where there is no other
    (Locatello et al. 2020). Training rows then have each vector twice, as ``x`` and ``x_pair``,
    and a label ``shared`` (per row, one 0 or 1 for each factor) in place of the factors.

    Args:
        dataset: The data set; its training rows have all the factors.
        factors: Label sites.
        changed: Number of factors that may differ.
        seed: Seed of the partners.

    Raises:
        ValueError: If there is no such label site, or ``changed`` is not 1 to their number.
    """
    if not 1 <= changed <= len(factors):
        raise ValueError(f"changed is {changed}, expected 1 to {len(factors)}")
    table = dataset.train
    codes = torch.stack([_labels(table, site) for site in factors], 1)
    draw = generator(seed, DRAW, 2)
    free = torch.rand(codes.shape, generator=draw).argsort(1) < changed
    partner = torch.empty(len(table), dtype=torch.int64)
    for which in free.unique(dim=0):
        rows = (free == which).all(1).nonzero().flatten()
        _, group = (codes * ~which).unique(dim=0, return_inverse=True)
        members = group.argsort(stable=True)
        size = group.bincount()
        first = size.cumsum(0) - size
        chance = torch.rand(len(rows), generator=draw, dtype=torch.float64)
        place = (chance * size[group[rows]]).long().clamp_max(size[group[rows]] - 1)
        partner[rows] = members[first[group[rows]] + place]
    vectors = [s for s, value in table.sites.items() if value.is_floating_point()]
    other = table.only(*vectors).rows(partner)
    mates = {f"{site}_pair": other.sites[site] for site in vectors}
    masks = {f"{site}_pair": mask for site, mask in other.observed.items()}
    left = table.without(*factors)
    known = {
        part: getattr(left, part)
        | {f"{site}_pair": of_site for site, of_site in getattr(other, part).items()}
        for part in BY_SITE
    }
    known["classes"]["shared"] = ("no", "yes")
    paired = left.replace(
        sites={**left.sites, **mates, "shared": (~free).long()},
        observed={**left.observed, **masks},
        **known,
    )
    options = {"factors": list(factors), "changed": changed, "seed": seed}
    return _record(dataset, weak_pairs, options, paired)


STEPS: dict[str, Callable[..., Dataset]] = {
    step.__name__: step
    for step in (supervise, unpair, missing_patterns, pair_by_class, correlate, weak_pairs)
}


def repeat(dataset: Dataset, steps: Sequence[Mapping[str, Any]]) -> Dataset:
    """Take the steps of a recipe again.

    Args:
        dataset: The data set they started from.
        steps: ``recipe["steps"]``.

    Raises:
        ValueError: If a step or an option of it is unknown.
    """
    for given in steps:
        options = dict(given)
        name = options.pop("step", None)
        if name not in STEPS:
            raise ValueError(unknown("step", str(name), STEPS))
        for option in options:
            if option not in (known := inspect.signature(STEPS[name]).parameters):
                raise ValueError(unknown(f"option of {name}", option, known))
        dataset = STEPS[name](dataset, **options)
    return dataset


def _record(
    dataset: Dataset,
    step: Callable[..., Dataset],
    options: Mapping[str, Any],
    train: Table,
    validation: Table | None = None,
    test: Table | None = None,
) -> Dataset:
    """The data set after a step, whose validation and test rows stay where none are given."""
    parts: dict[str, Any] = {
        "train": train,
        "validation": dataset.validation if validation is None else validation,
        "test": dataset.test if test is None else test,
    }
    recipe = {
        **dataset.recipe,
        "steps": [*dataset.recipe.get("steps", ()), {"step": step.__name__, **plain(options)}],
        "digest": digest(*parts.values()),
    }
    return dataclasses.replace(dataset, **parts, recipe=recipe)


def _labels(table: Table, site: str) -> Tensor:
    labels = [s for s, v in table.sites.items() if not v.is_floating_point() and v.dim() == 1]
    if site not in labels:
        raise ValueError(f"{table.name}: {unknown('label site', site, labels)}")
    if site in table.observed:
        raise ValueError(f"site {site!r} of {table.name} is hidden in some rows, expected in none")
    return table.sites[site][:].cpu()
