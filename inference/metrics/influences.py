"""Influence of training rows on the loss of others, along the way of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, check_seed, names
from ppl_models.data.tables.seeds import DRAW, generator
from ppl_models.data.tables.table import Table
from ppl_models.inference.metrics.checkpoints import PLAIN, Checkpoint
from ppl_models.inference.metrics.row_gradients import (
    Project,
    RowGradients,
    sketch as sketched,
    slots,
    state_of,
    whole_gradients,
)
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.posterior.groups import Array, host, plain_attrs
from ppl_models.inference.posterior.rows import undisturbed
from ppl_models.inference.posterior.support import as_fitted, check_data
from ppl_models.pair import Pair
from ppl_models.version import __version__

EXACT = "those of the steps"
HEURISTIC = "a heuristic: the steps were not those of plain gradient descent"
Chunk = tuple[int, Array, Batch]  # a number, positions in the table, and the rows there
TRAIN, AGAIN, TEST, SKETCH = range(4)  # what draws are for: those of two are not related


def influence(
    pair: Pair,
    table: Table,
    test_table: Table,
    checkpoints: Sequence[Checkpoint],
    draws: int = 16,
    objective: Objective | None = None,
    *,
    parameters: Sequence[str] = (),
    sketch: int = 0,
    chunk: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    r"""How much each training row lowered the loss of each test row, by VAE-TracIn.

    :math:`\sum_c \frac{\eta_c T_c}{N} \nabla \ell(x_i; \theta_c) \cdot \nabla \ell(x; \theta_c)`
    over the checkpoints c, with the learning rate :math:`\eta_c` and the number of steps
    :math:`T_c` since the one before, and :math:`\ell` the loss of a row that the training makes
    small, an expectation under the guide included, in eval mode (Kong and Chaudhuri 2021, arXiv
    2105.14203, after Pruthi et al. 2020, arXiv 2002.08484). Steps of :func:`fit` go along the
    mean of the loss over the rows of a batch: in :math:`T` of them a row is met :math:`T B / N`
    times on average, and moves the weights by :math:`\eta / B` of its gradient. The influences
    of all training rows on a test row add up to what its loss fell by, to first order in the
    rates.

    A positive influence is that of a *proponent*: without the row, the loss would be higher. That
    of the row on itself is never negative; a high one makes a row suspicious. Where the steps
    were not those of plain gradient descent, such as Adam's, the weights of the checkpoints are
    a heuristic, and ``attrs["weights"]`` says so.

    Train rows and test rows have draws of their own, so that each product is that of the two
    expected gradients on average, also where a row is on both sides. ``self_influence`` is a
    squared length of one average, and so too high by the variance of the gradient over R;
    ``self_influence_unbiased`` is the product of two halves of the draws, which may be negative.

    Args:
        pair: The pair, whose own weights are not looked at.
        table: All rows that it was trained on, N of them.
        test_table: Other rows, or some of the same. Labels that it has are given, as in training:
            drop them (``test_table.without("y")``) to ask for the loss without.
        checkpoints: From :class:`Checkpoints`, of one stage.
        draws: R, draws of each row's loss, at each checkpoint.
        objective: Whose loss; by default that of the checkpoints' stage, as the paper has it. It
            should be the one of the training.
        parameters: Prefixes of the names of parameters that the gradients are of, such as
            ``("decoder",)``; all of them if left out.
        sketch: Numbers S of a random projection that stands for each gradient, such as 2,048; 0
            keeps all P of them. The error of an influence has the standard deviation
            :math:`|\nabla \ell(x_i)| |\nabla \ell(x)| \sqrt{2 / S}` or less, in each checkpoint.
        chunk: Rows whose gradients are held at a time. All test rows' gradients are held, too,
            ``M x P`` numbers or ``M x S``.
        seed: Of draws and projection.

    Returns:
        ``influence`` over ``(test, train)`` and ``self_influence`` over ``train``, nats;
        ``self_influence_unbiased`` where there are two draws or more. Coordinates are the row
        numbers, ``train_name`` and ``test_name`` where rows have names, and
        ``train_y``, ``test_y`` for each label y of the tables, by the names of classes, empty
        where they are hidden.

    Raises:
        ValueError: If tables or checkpoints do not fit the pair, options are out of range, or
            rows look at each other in the objective.
    """
    draws, chunk, dims = at_least(draws=(draws, 1), chunk=(chunk, 1), sketch=(sketch, 0))
    seed = check_seed(seed)
    found = _checked(checkpoints)
    if objective is None:
        objective, table, test_table = _trained(pair, found[0].stage, table, test_table)
    if objective.across_rows:
        raise ValueError(
            f"rows look at each other in {objective!r}, expected an objective with a loss of "
            "each single row"
        )
    places = slots(pair, names("parameters", parameters))
    states = [state_of(pair, c.state, f"checkpoint {n}") for n, c in enumerate(found)]
    seen, asked = (as_fitted(pair, t) for t in (table, test_table))
    _check_labels(pair, seen, asked)

    sizes = {f"pair.{alike[0]}": states[0][alike[0]].numel() for alike in places}
    project: Project = whole_gradients
    if dims:
        project = sketched(sizes, dims, generator(seed, DRAW, SKETCH))
    sums = _Sums(len(asked), len(seen), draws)
    with undisturbed(pair, seed), torch.no_grad(), _as_it_was(objective):
        for rows in (seen, asked):
            check_data(pair, rows)
        for number, (checkpoint, state) in enumerate(zip(found, states, strict=True)):
            objective.at(checkpoint.progress)
            gradients = RowGradients(pair, objective, places, state, project)
            weight = checkpoint.rate * checkpoint.steps / len(seen)
            of_test, of_train = (_chunks(pair, rows, seen, chunk) for rows in (asked, seen))
            sums.add(weight, gradients, of_test, of_train, partial(_seed, seed, number))
    attrs = {
        "pair": pair.source,
        "loss": repr(objective),
        **_steps(found),
        "draws": draws,
        "parameters": ", ".join(names("parameters", parameters)) or "all",
        "gradient_size": sum(sizes.values()),
        "sketch": dims,
        "seed": seed,
        "version_ppl_models": __version__,
        "version_torch": torch.__version__,
    }
    coords = {**_coordinates("train", seen), **_coordinates("test", asked)}
    return xr.Dataset(sums.variables(), coords, plain_attrs(attrs))


class _Sums:
    """Products of gradients, added up over checkpoints.

    Args:
        asked: Number of test rows.
        seen: Number of training rows.
        draws: Draws of each row, which training rows take in two halves.
    """

    def __init__(self, asked: int, seen: int, draws: int) -> None:
        self.products = np.zeros((asked, seen))
        self.own, self.unbiased = np.zeros(seen), np.zeros(seen)
        self.draws, self.halves = draws, (draws - draws // 2, draws // 2)

    def add(
        self,
        weight: float,
        gradients: RowGradients,
        asked: Iterable[Chunk],
        seen: Iterable[Chunk],
        seed: Callable[[int, int], int],
    ) -> None:
        """Add one checkpoint.

        Args:
            weight: Of its products.
            gradients: Gives the gradients.
            asked: Test rows, a chunk at a time.
            seen: Training rows, likewise.
            seed: Seed of the draws, from what they are for and where the chunk starts.
        """
        test = [(at, gradients(rows, self.draws, seed(TEST, n))) for n, at, rows in asked]
        order = np.concatenate([at for at, _ in test])
        sought = torch.cat([grads for _, grads in test])
        first, second = self.halves
        for n, at, rows in seen:
            mean = half = gradients(rows, first, seed(TRAIN, n))
            if second:
                other = gradients(rows, second, seed(AGAIN, n))
                mean = (first * half + second * other) / self.draws
                self.unbiased[at] += weight * _host((half * other).sum(1))
            self.own[at] += weight * _host(mean.square().sum(1))
            self.products[np.ix_(order, at)] += weight * _host(sought @ mean.T)

    def variables(self) -> dict[str, tuple[tuple[str, ...], Array]]:
        """The sums by name, with their dimensions."""
        found: dict[str, tuple[tuple[str, ...], Array]] = {
            "influence": (("test", "train"), self.products),
            "self_influence": (("train",), self.own),
        }
        if self.halves[1]:
            found["self_influence_unbiased"] = (("train",), self.unbiased)
        return found


def _steps(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """What is told of the training."""
    optimisers = list(dict.fromkeys(c.optimiser.strip() for c in checkpoints))
    return {
        "checkpoints": len(checkpoints),
        "steps": [c.steps for c in checkpoints],
        "rates": [float(c.rate) for c in checkpoints],
        "optimiser": ", ".join(optimisers),
        "weights": EXACT if optimisers == [PLAIN] else HEURISTIC,
    }


def _checked(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    found = list(checkpoints)
    if not found:
        raise ValueError("no checkpoints given, expected at least one")
    for checkpoint in found:
        if not isinstance(checkpoint, Checkpoint):
            raise ValueError(
                f"checkpoints hold a {type(checkpoint).__name__}, expected Checkpoint"
            )
    stages = sorted({checkpoint.stage for checkpoint in found})
    if len(stages) > 1:
        raise ValueError(
            f"checkpoints are of the stages {', '.join(map(str, stages))}, expected those of one "
            "stage, whose loss counts"
        )
    return found


def _trained(
    pair: Pair, place: int, table: Table, test_table: Table
) -> tuple[Objective, Table, Table]:
    """The objective of a stage as the paper has it, and tables of the sites that it sees."""
    stages = pair.stages()
    if place >= len(stages):
        raise ValueError(
            f"checkpoints are of stage {place}, but {pair.source} has {len(stages)}; expected "
            "objective=, the one that it was trained with"
        )
    stage = stages[place]
    other = stage.pair is not None and stage.pair is not pair
    if other or stage.prepare is not None:
        raise ValueError(
            f"stage {stage.name!r} of {pair.source} trains {'another program' if other else ''}"
            f"{'' if other else 'on rows that it prepares'}, expected checkpoints of one that "
            "trains the pair on the rows as they are, or objective="
        )
    if stage.observed and table.counts.get(stage.observed, 0) < len(table):
        raise ValueError(
            f"stage {stage.name!r} of {pair.source} sees rows with {stage.observed!r} alone, "
            f"expected these (table.where_observed({stage.observed!r}))"
        )
    if stage.sites:
        kept = (*stage.sites, *pair.card.covariates)
        table, test_table = (
            t.only(*(name for name in kept if name in t.sites)) for t in (table, test_table)
        )
    return stage.objective, table, test_table


@contextmanager
def _as_it_was(objective: Objective) -> Iterator[None]:
    before = objective.progress
    try:
        yield
    finally:
        objective.at(before)


def _check_labels(pair: Pair, seen: Table, asked: Table) -> None:
    """The loss of a labelled row depends on how many there were in training."""
    for site in pair.card.labels:
        if asked.counts.get(site) and not seen.counts.get(site):
            raise ValueError(
                f"{asked.name} has labels {site!r}, of which {seen.name} has none; expected rows "
                f"like those of the training (without({site!r}))"
            )


def _chunks(pair: Pair, table: Table, trained: Table, size: int) -> Iterator[Chunk]:
    """Rows with the same observed sites, some at a time."""
    like, start = pair.like(), 0
    for regime in table.regimes():
        for index in regime.index.split(size):
            rows = table.gather(regime, index).to(like.device, like.dtype)
            # As in training, which may weigh labelled rows by their share.
            counts = {**dict.fromkeys(rows, 0), **trained.counts}
            batch = Batch(dict(rows), rows.rows, total=len(trained), observed=counts)
            yield start, index.cpu().numpy(), batch
            start += len(index)


def _seed(seed: int, checkpoint: int, purpose: int, start: int) -> int:
    return generator(seed, DRAW, purpose, checkpoint, start).initial_seed()


def _host(values: Tensor) -> Array:
    return host(values.double())


def _coordinates(dim: str, table: Table) -> dict[str, tuple[tuple[str], Any]]:
    found: dict[str, Any] = {dim: table.numbers.cpu().numpy()}
    if table.row_names is not None:
        found[f"{dim}_name"] = table.row_names.astype(str)
    for site, classes in table.classes.items():
        codes = table.sites[site][:].cpu().numpy()
        if codes.ndim == 1:
            found[f"{dim}_{site}"] = np.array([*classes, ""])[codes]  # hidden labels are -1
    return {name: ((dim,), values) for name, values in found.items()}


def kde_influence(rows: ArrayLike, test_rows: ArrayLike, bandwidth: float) -> Array:
    r"""The exact influence of each row on a Gaussian kernel density estimate, in closed form.

    Without the row :math:`x_i`, the loss :math:`-\log p(x)` of
    :math:`p(x) = \frac{1}{N} \sum_i K_h(x - x_i)` rises by
    :math:`\log p(x) - \log \frac{N p(x) - K_h(x - x_i)}{N - 1}`, which falls with the distance:
    the strongest proponents are the nearest rows, and the influence on itself is largest where
    rows are sparse (Kong and Chaudhuri 2021, arXiv 2105.14203).

    Args:
        rows: ``(N, D)``, two or more.
        test_rows: ``(M, D)``.
        bandwidth: h, the standard deviation of the kernel along each axis.

    Returns:
        ``(M, N)``, nats; of ``kde_influence(rows, rows, h)`` the diagonal is that on itself.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite, or the bandwidth not above 0.
    """
    x, test = (np.asarray(values, dtype=np.float64) for values in (rows, test_rows))
    if x.ndim != 2 or test.ndim != 2 or x.shape[1] != test.shape[1]:
        raise ValueError(
            f"rows have shape {x.shape} and test rows {test.shape}, expected (N, D) and (M, D)"
        )
    if len(x) < 2:
        raise ValueError(f"there is {len(x)} row, expected two or more: one has to be left")
    if not (np.isfinite(x).all() and np.isfinite(test).all()):
        raise ValueError("rows are not all finite, expected finite numbers")
    if not 0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth is {bandwidth}, expected a finite number above 0")
    # The kernel's constant is in both densities alike.
    log_kernel = -cdist(test, x, "sqeuclidean") / (2 * bandwidth**2)
    log_sum = logsumexp(log_kernel, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_rest = log_sum + np.log1p(-np.exp(log_kernel - log_sum))
    # At most one row has more than half of the sum. What is left of it is added up anew, as the
    # difference has few digits then.
    at = log_kernel.argmax(1)[:, None]
    others = log_kernel.copy()
    np.put_along_axis(others, at, -np.inf, 1)
    np.put_along_axis(log_rest, at, logsumexp(others, axis=1, keepdims=True), 1)
    found: Array = log_sum - np.log(len(x)) - (log_rest - np.log(len(x) - 1))
    return found
