r"""Whether the guide tells labels: collapsed, dead or swapped classes, errors and probabilities.

With :math:`\bar q(y)` the average of q(y | x) over rows, and a reference for it: the rows' own
labels where they are known; else the labelled rows of the training table, or draws of p(y),
whichever is nearer.

- **Label information**, :math:`I(x; y) = H(\bar q) - \overline{H(q(y|x))}`: below 5 %
  (:data:`TOLD`) of the reference's entropy, labels tell no rows apart: they have collapsed into
  one class, or the classifier into a constant.
- **Class shares**: total variation between :math:`\bar q` and the reference; above 0.5
  (:data:`SHIFT`) more rows than not would have to change class. A class that should have
  10 rows (:data:`EXPECTED`) and has less than a tenth of its share is dead; by chance there is
  no row of it once in 20,000 times.
- **Classifier**, on rows of known label: an error above half that of always naming the most
  frequent class, and 3 standard errors above what the probabilities themselves say. Classes that
  overlap may be told no better, but then q knows; and never worse than by that one name.
- **Swapped classes**: other names for the classes would mend half of the errors, and 5 %
  (:data:`SWAPPED`) of the rows.
- **Calibration**: the mean of the largest probability against the share of rows in which it is
  right. Networks of the usual kind are up to 17 points too sure (Guo et al. 2017,
  arXiv 1706.04599, Table 1): 20 (:data:`APART`) and two standard errors are worse than those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from ppl_models.inference.diagnostics.finding import Finding, among
from ppl_models.inference.posterior.confusion import Confusion
from ppl_models.inference.posterior.groups import Array

Datasets = Mapping[str, xr.Dataset]

LEAST, MOST = 20, 20_000  # rows from which anything is told, and most that are looked at
TOLD = 0.05
SHIFT = 0.5
EXPECTED, DEAD = 10, 0.1
SWAPPED, SEVERAL = 0.05, 5  # share of rows, and rows of a class, that say so
APART = 0.2
EMPTY = xr.Dataset()


def label_checks(groups: Datasets) -> list[Finding]:
    """Checks of every label that the guide or the chains give probabilities of.

    Args:
        groups: With ``variational`` or ``posterior``; ``constant_data``, ``training`` and
            ``prior`` for what labels are held against.
    """
    checks: list[Finding] = []
    for name, (rows, chains) in _probabilities(groups).items():
        for place, probs in enumerate(chains):
            of = f" of chain {place}" if len(chains) > 1 else ""
            checks += _Label(name, of, probs, rows, groups, place).checks()
    return checks


def _probabilities(groups: Datasets) -> dict[str, tuple[Array, list[Array]]]:
    """By label, the places of the rows that are looked at, and for each fit ``(N, C)``."""
    found: dict[str, tuple[Array, list[Array]]] = {}
    for group in ("variational", "posterior"):
        for variable, values in groups.get(group, EMPTY).data_vars.items():
            name = str(variable).removesuffix("_probs")
            dims = {str(dim) for dim in values.dims}
            if name == variable or name in found or not {"datum", f"{name}_class"} <= dims:
                continue
            if dims - {"chain", "draw", "datum", f"{name}_class"} or not values.size:
                continue
            # Chains of MCMC are of one posterior; those of a guide are fits of their own.
            rows = _some(values)
            mean = values[{"datum": rows}].mean([d for d in ("draw",) if d in dims])
            mean = mean.mean("chain") if group == "posterior" else mean
            mean = mean.transpose(..., "datum", f"{name}_class")
            array = mean.values.astype(float)
            found[name] = rows, list(array) if array.ndim == 3 else [array]
    for variable, values in groups.get("posterior", EMPTY).data_vars.items():
        name, count = str(variable), _classes_of(str(variable), groups)
        if name in found or not count or set(values.dims) != {"chain", "draw", "datum"}:
            continue
        # A label that the guide leaves to the model: how often it is drawn.
        rows = _some(values)
        places = values[{"datum": rows}].transpose("chain", "draw", "datum").values
        if places.size and places.min() >= 0 and places.max() < count:
            found[name] = rows, [_shares_of(chain, count) for chain in places]
    return found


def _some(values: xr.DataArray) -> Array:
    """Places of the rows that are looked at, evenly spaced."""
    count = values.sizes["datum"]
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))


def _classes_of(name: str, groups: Datasets) -> int:
    """Classes of a label that is drawn, as far as the training rows tell; else 0."""
    drawn = groups["posterior"][name].dtype.kind in "iu"
    counts = groups.get("training", EMPTY).get(f"{name}_confusion")
    return int(counts.shape[-1]) if drawn and counts is not None else 0


def _shares_of(places: Array, count: int) -> Array:
    """How often each class is drawn in each row ``(N, C)``, of draws ``(S, N)``."""
    rows = places.shape[1]
    cells = np.bincount((np.arange(rows) * count + places).ravel(), minlength=rows * count)
    shares: Array = cells.reshape(rows, count) / len(places)
    return shares


class _Label:
    """One label as one fit tells it."""

    def __init__(
        self, name: str, of: str, probs: Array, rows: Array, groups: Datasets, chain: int
    ) -> None:
        known = ~np.isnan(probs).any(-1)
        self.name, self.of, self.probs = name, of, probs[known]
        self.classes = _class_names(name, groups, probs.shape[-1])
        self.truth = _truth(name, groups, rows[known], probs.shape[-1])
        self.trained = _trained(name, groups, chain, probs.shape[-1])
        self.prior = _prior(name, groups, probs.shape[-1])
        self.taught = _taught(name, groups)

    def checks(self) -> list[Finding]:
        """All that can be told."""
        found = list(self._shares()) if len(self.probs) >= LEAST else []
        if self.trained is not None:
            found += self._judged(self.trained, "labelled training rows")
        if self.truth is not None and int((self.truth >= 0).sum()) >= LEAST:
            there = self.truth >= 0
            told = Confusion.of(self.truth[there], self.probs[there])
            found += self._judged(told, "exported rows of known label")
        return found

    def _shares(self) -> Iterator[Finding]:
        rows, mean = len(self.probs), self.probs.mean(0)
        reference, source = self._reference(mean)
        if reference is None or int((rows * reference >= EXPECTED).sum()) < 2:
            return
        y = f"{self.name}{self.of}"
        told = _entropy(mean) - float(_entropy(self.probs).mean())
        limit = TOLD * float(_entropy(reference))
        yield self._check(
            "label information", told >= limit,
            f"{y} tells {rows} rows apart by {told:.3g} nats (at least {limit:.2g})",
            self._teach() + f": q({self.name} | x) is almost the same for all rows", told, limit,
        )  # fmt: skip
        apart = 0.5 * float(np.abs(mean - reference).sum())
        yield self._check(
            "class shares", apart <= SHIFT,
            f"the shares of {y}'s classes are {apart:.2g} from those of {source} in total "
            f"variation (at most {SHIFT:g})",
            f"{self._teach()}, or set the prior over {self.name} if these rows are of other "
            "classes than those",
            apart, SHIFT,
        )  # fmt: skip
        least = DEAD * reference
        dead = np.flatnonzero((rows * reference >= EXPECTED) & (mean < least))
        if len(dead):
            worst = dead[(mean / least)[dead].argmin()]
            names = [self.classes[place] for place in dead]
            yield self._check(
                "dead class", False,
                f"{y} gives {among(names)} hardly any row: {rows * mean[worst]:.2g} of {rows} to "
                f"{self.classes[worst]!r} (at least {rows * least[worst]:.2g}, a tenth of the "
                f"share in {source})",
                f"{self._teach()}, or label rows of that class",
                float(rows * mean[worst]), float(rows * least[worst]),
            )  # fmt: skip

    def _reference(self, mean: Array) -> tuple[Array | None, str]:
        """Class shares that these rows should have, and where they are from."""
        if self.truth is not None and (self.truth >= 0).mean() > 0.5:
            counts = np.bincount(self.truth[self.truth >= 0], minlength=len(mean))
            return counts / counts.sum(), "their known labels"
        sources = []
        if self.trained is not None:
            counts = self.trained.counts.sum(1)
            sources.append((counts / counts.sum(), "the labelled training rows"))
        if self.prior is not None:
            sources.append((self.prior, f"p({self.name})"))
        nearest = min(sources, key=lambda s: np.abs(mean - s[0]).sum(), default=(None, ""))
        return nearest

    def _judged(self, told: Confusion, rows: str) -> Iterator[Finding]:
        y, error = f"{self.name}{self.of}", told.error
        frequent = int(told.counts.sum(1).argmax())
        guess = 1 - float(told.counts[frequent].sum()) / told.rows
        where = f"{told.rows} {rows}"
        right = 1 - error
        noise = math.sqrt(right * error / told.rows)
        if guess * told.rows >= EXPECTED:  # of rows of one class there is nothing to tell
            limit = min(guess, max(guess / 2, 1 - told.sure + 3 * noise))
            yield self._check(
                "classifier", error <= limit and error < guess,
                f"{y} is wrong in {error:.1%} of {where} (at most {limit:.1%}: half the error of "
                f"always naming {self.classes[frequent]!r}, or what its own probabilities say)",
                self._teach(), error, limit,
            )  # fmt: skip
        yield from self._swapped(told, y, where)
        limit = APART + 2 * noise
        apart = told.sure - right
        yield self._check(
            "calibration", abs(apart) <= limit,
            f"the most probable {y} has a probability of {told.sure:.1%} on average and is right "
            f"in {right:.1%} of {where} (at most {100 * limit:.0f} points apart)",
            "stop earlier or label more rows: it is too sure" if apart > 0 else
            f"{self._teach()}: it is not sure enough", abs(apart), limit,
        )  # fmt: skip

    def _swapped(self, told: Confusion, y: str, where: str) -> Iterator[Finding]:
        own, best = linear_sum_assignment(-told.counts)
        # Of a class with a row or two, another name mends what is only a mistake.
        moved = own[(best != own) & (told.counts.sum(1) >= SEVERAL)]
        mended = float((told.counts[moved, best[moved]] - told.counts[moved, moved]).sum())
        mended /= told.rows
        if mended >= SWAPPED and mended >= told.error / 2:
            yield self._check(
                "swapped classes", False,
                f"{y} exchanges the classes {among([self.classes[place] for place in moved])}: "
                f"with their names put right {mended:.1%} more of {where} are right (at most "
                f"{SWAPPED:.0%})",
                f"{self._teach()}; check the order of classes in the data", mended, SWAPPED,
            )  # fmt: skip

    def _teach(self) -> str:
        if self.taught:
            return f"give {self.taught} more weight, train longer, or try another seed"
        return (
            f"add Classification({self.name!r}) to the objective (the bound alone teaches "
            f"q({self.name} | x) too little), train longer, or try another seed"
        )

    def _check(
        self, name: str, ok: bool, fact: str, advice: str, figure: float, limit: float
    ) -> Finding:
        return Finding(name, bool(ok), fact, advice, self.name, float(figure), float(limit))


def _entropy(probs: Array) -> Any:
    """Of distributions ``(..., C)``, nats."""
    return -(probs * np.log(np.where(probs > 0, probs, 1))).sum(-1)


def _class_names(name: str, groups: Datasets, count: int) -> list[str]:
    dim = f"{name}_class"
    for group in ("variational", "posterior", "training"):
        dataset = groups.get(group, EMPTY)
        if dim in dataset.coords and dataset.sizes[dim] == count:
            return [str(value) for value in dataset[dim].values]
    return [str(place) for place in range(count)]


def _taught(name: str, groups: Datasets) -> str:
    """The part of the loss that is about a label, such as ``classification(y)``; else empty."""
    parts = [str(part) for part in groups.get("training", EMPTY).data_vars]
    about = (part for part in parts if part.endswith(f"({name})") or part == "classification")
    return next(about, "")


def _truth(name: str, groups: Datasets, rows: Array, classes: int) -> Array | None:
    """Known labels of rows ``(N,)``, -1 where there is none."""
    known = groups.get("constant_data", EMPTY).get(f"{name}_true")
    if known is None or known.dims != ("datum",) or known.dtype.kind not in "iu":
        return None
    values: Array = known[{"datum": rows}].values
    return None if not len(values) or values.max() >= classes else values.astype(np.int64)


def _trained(name: str, groups: Datasets, chain: int, classes: int) -> Confusion | None:
    training = groups.get("training", EMPTY)
    if not {f"{name}_confusion", f"{name}_sure"} <= set(training):
        return None
    counts = training[f"{name}_confusion"].values
    if counts.shape[1:] != (classes, classes) or not counts[chain].sum():
        return None
    return Confusion(counts[chain], float(training[f"{name}_sure"].values[chain]))


def _prior(name: str, groups: Datasets, classes: int) -> Array | None:
    drawn = groups.get("prior", EMPTY).get(name)
    if drawn is None or drawn.dtype.kind not in "iu" or set(drawn.dims) != {"chain", "draw"}:
        return None
    places = drawn.values.ravel()
    if not len(places) or places.min() < 0 or places.max() >= classes:
        return None
    shares: Array = np.bincount(places, minlength=classes) / len(places)
    return shares
