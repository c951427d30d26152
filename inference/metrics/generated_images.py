"""Images that a pair makes: of its prior, and of rows of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.centres import data_centre, is_class
from ppl_models.config import check_seed, unknown, whole
from ppl_models.covariates import empty
from ppl_models.data.tables.seeds import generator
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.prediction import by_rows
from ppl_models.inference.posterior.rows import chosen, undisturbed
from ppl_models.inference.posterior.told_alone import generated
from ppl_models.inference.traces.global_posteriors import global_posteriors
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import is_local, one_line, rows_first

BLOCK = 256  # rows drawn at once, whatever number is asked for


def sample_images(
    pair: Pair,
    n: int,
    seed: int = 0,
    site: str = "x",
    mean: bool = True,
    covariates: Mapping[str, Any] | None = None,
) -> Tensor:
    """Images of rows that are drawn from the pair's own prior, learned ones included.

    Rows are drawn 256 at a time, each block from a seed of its own: the first n are the same
    however many are asked for. What all rows share, such as weights of a network, is drawn from
    the guide, which the fit has taught, and once for each block.

    Args:
        pair: The pair, in evaluation mode meanwhile.
        n: Number of rows.
        seed: Of the draws.
        site: The site of the data that is the image.
        mean: Whether it is the mean of the likelihood at the codes; else a draw of it. Binary
            pixels that are drawn lie far from grey ones, so say which.
        covariates: As :func:`ppl_models.covariates.empty` takes them, if the pair has any.

    Returns:
        ``(n, D)`` in the shape of the site, clipped to [0, 1], on the CPU.

    Raises:
        ValueError: If there is no such site, n is below 1, the site has no mean that is to be
            taken, or the guide has no posterior of what all rows share.
    """
    _check_site(pair, site)
    n, seed = whole("n", n, 1), check_seed(seed)
    blocks = []
    for number in range(-(-n // BLOCK)):
        own = generator(seed, number).initial_seed()
        with undisturbed(pair, own), torch.no_grad(), one_line():
            # Always a whole block: the first rows of a smaller one would be others.
            rows = empty(pair, BLOCK, covariates)
            node = poutine.trace(_with_shared(pair, rows)).get_trace(rows).nodes[site]
            blocks.append(_value(site, node, mean).cpu())
    return torch.cat(blocks)[:n].clamp(0, 1)


def reconstruct_images(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    site: str = "x",
    mean: bool = True,
) -> Tensor:
    """Images of rows of a table, through a draw of their codes from the guide and back.

    Args:
        pair: The pair.
        table: The rows; held-out ones tell how far the codes carry.
        rows: Positions in the table; all by default.
        seed: Of the draws of the codes, and of pixels.
        site: The site of the data that is the image.
        mean: As of :func:`sample_images`.

    Returns:
        ``(n, D)`` in the shape of the site, clipped to [0, 1], on the CPU.

    Raises:
        ValueError: If there is no such site or row.
    """
    _check_site(pair, site)
    table, index = chosen(pair, table, rows)

    def of(batch: Batch) -> Tensor:
        return generated(pair, batch, site, 1, mean)[0]

    return by_rows(pair, table.rows(index), of, check_seed(seed)).cpu().clamp(0, 1)


def _with_shared(pair: Pair, rows: Batch) -> Callable[[Batch], Any]:
    """The model, with a draw of the guide for each site outside the data plate."""
    sites = latent_sites(poutine.trace(pair.model).get_trace(rows))
    if all(is_local(site) for _, site in sites):
        return pair.model
    values = {name: q.sample() for name, q in global_posteriors(pair).items()}
    found: Callable[[Batch], Any] = poutine.condition(pair.model, data=values)
    return found


def _check_site(pair: Pair, site: str) -> None:
    if site not in pair.card.data:
        raise ValueError(f"{pair.card.name}: {unknown('site of the data', site, pair.card.data)}")


def _value(site: str, node: Any, mean: bool) -> Tensor:
    fn, value = node["fn"], node["value"]
    if is_class(fn):
        raise ValueError(f"site {site!r} has classes, expected an image of numbers")
    if mean:
        centre = data_centre(fn)
        if centre is None:
            raise ValueError(f"site {site!r} has no mean; ask for draws with mean=False")
        value = centre.expand(value.shape)
    found: Tensor = rows_first(node, value, fn.event_dim)
    if found.shape[0] != BLOCK:
        raise ValueError(
            f"site {site!r} of {BLOCK} rows has shape {tuple(found.shape)}, expected a value for "
            "each row"
        )
    return found
